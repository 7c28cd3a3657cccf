"""The benchmark command at a toy size: what it counts, how it times, and what it writes."""

import argparse
import functools
import importlib.util
import json
import statistics
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from numpy.random import default_rng

import tiny
from harness import ROOT

BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import generated  # noqa: E402
import gpu  # noqa: E402
import loading  # noqa: E402
import machine  # noqa: E402
import pretraining  # noqa: E402
import setups  # noqa: E402

# not by its name: the quickstart has a run.py too
specification = importlib.util.spec_from_file_location("benchmark_run", BENCHMARKS / "run.py")
command = importlib.util.module_from_spec(specification)
specification.loader.exec_module(command)

pytestmark = pytest.mark.slow
setups.convert_namespace_to_omegaconf = tiny.converted  # composed once, not by each of the many small trainings
SMALL = ["--size", "tiny", "--repeats", "3", "--threads", "1", "--at-least", "0.002", "--updates", "4"]
SMALL += ["--precisions", "float32,bf16"]
TINY_GPU = ["--size", "tiny", "--device", "cpu", "--minutes", "8"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two batches of the toy size."""
    folder = tmp_path_factory.mktemp("benchmark")
    generated.write_data(folder, generated.TINY, pairs=2 * generated.TINY.batch)
    return folder


def measured(tmp_path, *argv) -> dict:
    path = tmp_path / "out.json"
    assert command.main([*SMALL, "--json", str(path), *argv]) == 0
    return json.loads(path.read_text())


def test_operations_at_the_papers_size():
    """7.87 GFLOP a VTLM pair: 26 of its 30 word positions are words, of which 15 % are predicted, as of 36 regions."""
    found = pretraining.operations(generated.PAPER, regions=36, predicted_words=3.9, predicted_regions=5.4)
    assert found == pytest.approx(7.87e9, rel=2e-3)
    layers = 6 * 66 * (24 * 512**2 + 4 * 66 * 512)
    words, labels = 3.9 * 2 * 512 * 10_000, 5.4 * 2 * 512 * 601
    regions = 36 * 2 * (1536 + 4) * 512
    assert found == pytest.approx(3 * (layers + words + labels) + 2 * regions, rel=1e-12)
    text = pretraining.operations(generated.PAPER, regions=0, predicted_words=3.9, predicted_regions=0)
    assert text == pytest.approx(3 * (6 * 30 * (24 * 512**2 + 4 * 30 * 512) + words), rel=1e-12)


def test_operations_of_a_real_batch(data):
    """What is predicted is counted in the batch."""
    run = setups.Training(data, generated.TINY, "pretraining", device="cpu", regions=True, batches=2)
    for batch in run.batches:
        words, regions = (batch["target"] != 1).sum().item(), (batch["region_target"] >= 0).sum().item()
        assert words > 0 and regions > 0
        assert batch["target"].shape == (8, 12) and batch["net_input"]["features"].shape == (8, 4, 16)
        expected = pretraining.operations(
            generated.TINY, regions=4, predicted_words=words / 8, predicted_regions=regions / 8
        )
        assert pretraining.batch_operations(generated.TINY, batch, padding=1) == expected
    before = [parameter.detach().clone() for parameter in run.model.parameters()]
    run.step()
    assert run.trainer.get_num_updates() == 1
    assert all(not torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    run.model.eval()  # the ablation, the last layer everywhere: the same loss, by another way
    criterion = run.trainer.get_criterion()
    loss, _, _ = criterion(run.model, run.batches[0])
    pretraining.everywhere(run.model)
    called = []
    run.model.encoder.layers[-1].register_forward_hook(lambda *_: called.append(True))
    other, _, _ = criterion(run.model, run.batches[0])
    torch.testing.assert_close(loss, other)
    assert called  # the default computes the last layer by another method


def test_in_turn():
    """A B A B after the warm-up; a fast function is called often enough; the speed-up is the median over turns."""
    calls = []
    seconds = machine.in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=3, at_least=0)
    assert "".join(calls) == "abababab"
    assert [len(times) for times in seconds.values()] == [3, 3]
    calls.clear()
    (times,) = machine.in_turn({"a": lambda: calls.append("a")}, repeats=1, at_least=0.001).values()
    assert len(calls) > 100 and times[0] < 1e-4
    seconds = {"fast": [1.0, 10.0, 2.0], "slow": [2.0, 15.0, 2.2]}
    assert machine.speedup(seconds, "fast", "slow") == 1.5


def test_products_count_their_operations():
    made = machine.products("float32", device="cpu", feed_forward=(5, 3, 7), squares=(4,))
    assert {name: work for name, (_, work) in made.items()} == {
        "product float32 4^3": 128.0,
        "product float32 5x3x7": 210.0,
    }
    assert made["product float32 5x3x7"][0]().shape == (5, 7)


def test_pretraining_section(tmp_path):
    """Pairs a second, operations and shares agree with the times and the products."""
    found = measured(tmp_path, "--only", "pretrain")
    assert found["machine"]["threads"] == 1 and found["machine"]["cores"] >= 1 and found["machine"]["cpu"]
    assert found["machine"]["torch"] == torch.__version__ and len(found["machine"]["load_average"]) == 3
    section = found["sections"]["pretrain"]
    table, products = section["tables"]
    assert [row["pre-training"] for row in table["rows"]] == list(pretraining.VARIANTS)
    best = max(row["GFLOP/s"] for row in products["rows"] if "float32" in row["product"])
    for row in table["rows"]:
        times = section["seconds"][row["pre-training"]]
        assert len(times) == 3 and row["s an update"] == statistics.median(times)
        assert row["pairs/s"] == pytest.approx(8 / statistics.median(times))
        assert row["GFLOP/s"] == pytest.approx(row["pairs/s"] * row["GFLOP a pair"])
        if "bf16" not in row["pre-training"]:
            share = section["figures"][f"share: {row['pre-training']}"]
            assert share == pytest.approx(row["GFLOP/s"] / best) == row["% of product rate"] / 100
    tlm, vtlm = (table["rows"][i]["GFLOP a pair"] for i in (0, 2))
    assert tlm < vtlm
    assert all(0 < value < 100 for name, value in section["figures"].items() if name.startswith("speed-up"))


def test_translation_sections(tmp_path):
    """Fine-tuning and decoding are compared with stock fairseq's transformer on the same text."""
    found = measured(tmp_path, "--only", "finetune,decode")["sections"]
    for name, systems in (("finetune", 5), ("decode", 3)):
        (table,) = found[name]["tables"]
        assert len(table["rows"]) == systems
        assert table["rows"][-1]["system"].startswith("stock transformer")
        assert table["rows"][-1]["against stock"] == 1
        seconds = found[name]["seconds"]
        stock = seconds[table["rows"][-1]["system"]]
        ratios = [theirs / ours for ours, theirs in zip(seconds[table["rows"][0]["system"]], stock, strict=True)]
        assert table["rows"][0]["against stock"] == pytest.approx(statistics.median(ratios))


def test_stock_model_is_of_the_same_size(data):
    """The layers of the stock baseline have as many parameters, and its vocabulary and width are the same."""
    ours, stock = (
        setups.Training(data, generated.TINY, kind, device="cpu", batches=0).model for kind in ("translation", "stock")
    )
    for one, other in ((ours.encoder, stock.encoder), (ours.decoder, stock.decoder)):
        assert sum(p.numel() for p in one.layers.parameters()) == sum(p.numel() for p in other.layers.parameters())
    assert ours.decoder.embed_tokens.weight.shape == stock.decoder.embed_tokens.weight.shape == (104, 32)


def test_outputs_of_another_length_are_noticed(data, monkeypatch):
    decode = setups.decoder(data, generated.TINY, "translation", device="cpu")
    assert len(decode()) == 8
    other = setups.decoder(data, replace(generated.TINY, batch=4), "stock", device="cpu")
    assert {len(hypothesis["tokens"]) for sentence in other() for hypothesis in sentence} == {5}
    monkeypatch.setattr("fairseq.sequence_generator.SequenceGenerator.generate", lambda *_, **__: [])
    with pytest.raises(RuntimeError, match="0 sentences"):
        decode()


def test_loading_section(tmp_path):
    """Every reader is timed, the raw read covers the file, and the wait for data is a share."""
    found = measured(tmp_path, "--only", "loading", "--store-gb", "0.00001", "--data", str(tmp_path))
    section = found["sections"]["loading"]
    readers = [row["reader"] for row in section["tables"][0]["rows"]]
    assert readers == [
        "raw",
        *(f"{kind}, workers: {n}" for kind in ("regions", "pre-training batches") for n in (0, 1)),
    ]
    images = 78  # of 128 bytes
    part = images // 3
    raw = section["tables"][0]["rows"][0]
    assert raw["images/s"] == pytest.approx(part / statistics.median(section["seconds"]["raw"]))
    assert raw["GB/s"] == pytest.approx(raw["images/s"] * 128 / 1e9)
    assert raw["images/s, cold"] > 0
    assert 0 < section["figures"]["share of training that waits for data"] < 1
    path = tmp_path / "loading-1e-05GB" / "regions.h5"
    assert loading.raw_read(path, generated.TINY, torch.arange(images).numpy(), block=10) == images * 128


def test_lengths_are_multi30ks():
    """Means of both languages as counted there (15.23 and 15.95 pieces), and long English goes with long German."""
    english, german = generated.real_lengths(default_rng(1), 20_000)
    assert (english.mean(), german.mean()) == pytest.approx((15.226, 15.952), abs=0.15)
    assert sum(generated.ENGLISH) == sum(generated.GERMAN_MORE) == 29_000
    assert english.min() >= 4 and german.min() >= 1 and english.max() > 40


def test_lengths_section(tmp_path):
    """Training on batches of the loader: they have padding, and all time is that of the updates."""
    section = measured(tmp_path, "--only", "lengths")["sections"]["lengths"]
    rows = {row["training"]: row for row in section["tables"][0]["rows"]}
    assert list(rows) == ["VTLM, workers: 0", "VTLM, workers: 1", "MMT, workers: 1"]
    for name, row in rows.items():
        seconds = section["seconds"][name]
        assert len(seconds) == 4 and row["pairs/s"] == pytest.approx(4 * 8 / sum(seconds))
        assert statistics.median(seconds) == row["s an update"] <= row["s, 99th percentile"] <= max(seconds)
        assert 0 < row["% waiting"] < 100 and 0 < row["% padding"] < 50


def test_gpu_script_on_a_cpu(tmp_path, monkeypatch, capsys):
    """Phases in their order, written one by one; one that fails, or runs out of time, loses no other's figures."""
    out, seen = tmp_path / "gpu.json", []

    def fails(bench):
        seen.append(json.loads(out.read_text()))
        bench.compare("twice", {"a": lambda: gpu.Step(lambda _: 2.0), "b": lambda: 1 / 0}, pairs=4)
        raise ValueError("no such kernel")

    def sleeps(bench):
        bench.compare("kept", {"a": lambda: gpu.Step(lambda _: 2.0), "b": lambda: threading.Event().wait(60)}, pairs=4)

    monkeypatch.setitem(gpu.PHASES, "attention", (1, fails))
    monkeypatch.setitem(gpu.PHASES, "loader", (0.001, sleeps))
    phases = ["machine", "attention", "loader", "others"]
    assert gpu.main([*TINY_GPU, "--out", str(out), "--phases", ",".join(phases)]) == 1
    report = json.loads(out.read_text())
    assert list(seen[0]["phases"]) == ["machine"] and list(report["phases"]) == phases
    failed, late = report["phases"]["attention"], report["phases"]["loader"]
    assert failed["error"] == "ValueError: no such kernel" and "fails" in failed["traceback"]
    assert failed["groups"]["twice"]["errors"] == {"b": "ZeroDivisionError: division by zero"}
    assert "out of time" in late["error"]
    for group in (failed["groups"]["twice"], late["groups"]["kept"]):
        assert group["cells"]["a"]["seconds"] == [2.0, 2.0, 2.0]
    assert not any("error" in report["phases"][name] for name in ("machine", "others"))
    (group,) = report["phases"]["others"]["groups"].values()
    assert group["errors"] == {}
    ours, plain = (group["cells"][name] for name in ("VTLM bf16", "plain PyTorch bf16"))
    assert ours["operations"] == plain["operations"] > 0 and len(ours["seconds"]) == 3
    assert gpu.tables(report) in capsys.readouterr().out
    assert (tmp_path / "gpu.md").read_text() == gpu.tables(report) + "\n"


def test_gpu_script_through_all_phases(tmp_path, monkeypatch):
    """With a checkout as its baseline; the compiler only reads the model, it makes no code."""
    torch.compiler.reset()  # graphs of other tests would serve
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    assert gpu.main([*TINY_GPU, "--out", str(tmp_path / "gpu.json"), "--baseline", str(ROOT)]) == 0
    phases = json.loads((tmp_path / "gpu.json").read_text())["phases"]
    assert list(phases) == list(gpu.PHASES)
    for name, found in phases.items():
        assert name == "attention" or all(group["errors"] == {} for group in found.get("groups", {}).values())
    assert "VTLM bf16, baseline" in phases["eager"]["groups"]["VTLM, 8 pairs"]["cells"]
    assert phases["compiled"]["groups"]["compiled, 8 pairs"]["cells"]["VTLM bf16, compiled"]["graphs"] >= 1
    assert 1 <= phases["compiled"]["loops"]["VTLM bf16, compiled, real lengths"]["graphs"] <= 24
    assert 0 < phases["loader"]["loops"]["VTLM bf16, real lengths, 1 worker(s)"]["waiting"] < 1


def test_ratios_of_the_gpu_table():
    """Of speeds, within a turn; a share of the data sheet's rate; from nothing but the JSON."""
    cell = {"operations": None, "waits": 2, "graphs": 0, "first_s": 3.0}
    cells = {"ours": {**cell, "seconds": [0.001, 0.002, 0.004], "operations": 989e9 / 4},
             "plain": {**cell, "seconds": [0.002, 0.003, 0.004]}, "stock": {**cell, "seconds": [0.004]}}  # fmt: skip
    group = {"pairs": 64, "against": {"plain": "plain", "stock": "stock"}, "cells": cells, "errors": {}}
    report = {
        "machine": {"cpu": "c", "gpu": "NVIDIA H100 80GB", "torch": "2"},
        "phases": {"x": {"groups": {"g": group}}},
    }
    line = next(line for line in gpu.tables(report).splitlines() if "| ours" in line)
    assert [cell.strip() for cell in line.strip("|").split("|")][2:8] == ["2.00", "32000", "12.5", "1.50", "4.00", "2"]


def test_corpus_section(tmp_path):
    """A prepared corpus is started and timed; the smallest is the measure of all."""
    generated.write_data(tmp_path / "corpus-300", generated.TINY, pairs=300)
    found = measured(tmp_path, "--only", "corpus", "--repeats", "1", "--data", str(tmp_path))["sections"]["corpus"]
    (row,) = found["tables"][0]["rows"]
    assert row["pairs"] == 300 and row["of the smallest's"] == 1
    assert 0 < row["s an update"] < row["s to the first update"]
    assert 0.1 < row["GB, largest process"] < 10


def test_gaps_between_kernels():
    """Kernels at 0-2, 1-3 and 5-10 ms: busy 8 of 10 ms."""

    def event(start, end, kind=torch.autograd.DeviceType.CUDA):
        return SimpleNamespace(time_range=SimpleNamespace(start=1000.0 * start, end=1000.0 * end), device_type=kind)

    events = [event(5, 10), event(0, 2), event(1, 3), event(3, 5, torch.autograd.DeviceType.CPU)]
    line = pretraining.launch_gaps(SimpleNamespace(events=lambda: events))
    assert line == "GPU busy 8.00 ms of 10.00 ms; gaps between kernels: 20.0 %"


@pytest.mark.parametrize(
    "argv",
    [("--only", "speed"), ("--device", "cuda"), ("--repeats", "0"), ("--precisions", "x"), ("--updates", "3")],
)
def test_refused_options(argv, capsys):
    if argv[1] == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(SystemExit):
        command.main(argv)
    assert argv[0] in capsys.readouterr().err.splitlines()[-1]


def test_trainings_that_fail(tmp_path):
    """The log is named; losses of a training that ended early are not taken for those of a whole one."""
    import precision_loss

    with pytest.raises(SystemExit, match="log.tmp"):
        precision_loss.run(tmp_path, ["false"], tmp_path / "log")
    (tmp_path / "float32.1.3.log").touch()
    args = argparse.Namespace(out=tmp_path, updates=3, cpu=True)
    with pytest.raises(SystemExit, match="float32.1.3.log.* 0 updates"):
        precision_loss.last_losses(args, 1, "float32", ())
