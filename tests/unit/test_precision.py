"""Half precision is chosen only where it is fast, and asking for it elsewhere is answered with one warning."""

import logging
import runpy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import recipes  # puts the examples on the path
import torch
from table1 import chosen_precision, parse_arguments
from table1_data import Data
from table1_plan import Planner
from table1_rows import ON_GPU, SIZES

from tiny import folder, pretraining_task
from vtlm_fairseq import precision
from vtlm_fairseq.errors import VTLMError


def on_a_cpu(monkeypatch, *, fast: bool) -> None:
    """No GPU, and a CPU with or without AVX-512."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    for name in ("bf16", "fp16"):
        monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", lambda: fast, raising=False)
    precision.warn_if_slow.cache_clear()


def on_a_gpu(monkeypatch, *, fast: bool) -> None:
    """A GPU that computes bf16, or emulates it, beside a CPU that is slow in it."""
    on_a_cpu(monkeypatch, fast=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or fast)


@pytest.mark.parametrize("fast", [True, False])
def test_warning_at_the_first_batch(monkeypatch, tmp_path, caplog, fast):
    """One line for all steps, where the CPU is slow; it names the option and what mends it."""
    on_a_cpu(monkeypatch, fast=fast)
    folder(tmp_path / "bin", {"train": 3})
    task = pretraining_task(tmp_path / "bin", "--autocast", "bf16")
    sample = {"net_input": {"src_tokens": torch.ones(1, 1)}}
    with caplog.at_level(logging.WARNING, logger=precision.__name__):
        with pretraining_task(tmp_path / "bin").autocast(sample):  # float32 is never slow
            assert not caplog.records
        for _ in range(2):
            with task.autocast(sample):
                assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    lines = [record.getMessage() for record in caplog.records if record.name == precision.__name__]
    assert len(lines) == (0 if fast else 1)
    assert all("--autocast bf16" in line and "AVX-512" in line and "leave --autocast out" in line for line in lines)


def test_a_build_without_onednn_is_slow(monkeypatch):
    """There, the question itself cannot be asked."""
    on_a_cpu(monkeypatch, fast=True)
    assert precision.is_fast("fp16", "cpu")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.is_fast("bf16", "cpu")


def test_gpus(monkeypatch):
    """bf16 before Ampere is emulated; fp16 is not. The CPU beside a GPU is asked only where the GPU is left alone."""
    on_a_gpu(monkeypatch, fast=False)
    assert [precision.is_fast(kind, "cuda") for kind in ("bf16", "fp16")] == [False, True]
    assert precision.default_precision() == "fp32"
    on_a_gpu(monkeypatch, fast=True)
    assert precision.default_precision() == "bf16"
    assert precision.default_precision(cpu=True) == "fp32"


@pytest.mark.parametrize(
    ("argv", "fast", "expected"),
    [
        ([], True, "bf16"),
        ([], False, "fp32"),
        (["--precision", "bf16"], False, "bf16"),
        (["--precision", "fp32"], True, "fp32"),
        (["--size", "paper"], True, "fp32"),
        (["--size", "tiny"], True, "fp32"),
    ],
)
def test_precision_of_table_1(monkeypatch, argv, fast, expected):
    """It stands in the command of a training, by which the runner knows what is finished."""
    on_a_cpu(monkeypatch, fast=fast)
    args = parse_arguments(argv)
    size = SIZES[args.size]
    chosen = chosen_precision(args, size)
    assert chosen == expected
    data = Data(pair=("en", "de"), bpe="none", test_sets=("test",), region_sets=frozenset(), stages=(), has_cc=False,
                has_cc_regions=False, checksums={"data-bin": "0"})  # fmt: skip
    plan = Planner(args.out, data, size, precision=chosen).plan(["nmt"], [1])
    (command,) = [stage.command for stage in plan.stages if stage.name == "nmt.1"]
    assert ("--autocast" in command) == (expected == "bf16")


def test_what_uses_a_gpu(monkeypatch):
    """Training takes bf16 only where the GPU computes it; on a CPU nothing changes."""
    on_a_cpu(monkeypatch, fast=True)
    assert precision.fast_options() == {}
    on_a_gpu(monkeypatch, fast=False)
    assert precision.fast_options() == {"--optimizer": "fused_adam", "--num-workers": "4"}
    on_a_gpu(monkeypatch, fast=True)
    assert precision.fast_options()["--autocast"] == "bf16"
    assert precision.fast_options(cpu=True) == {}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["train", "hydra"])
def test_options_that_are_printed_train(monkeypatch, capsys, form):
    """Behind a command or a recipe, whose optimizer they replace and whose betas they keep."""
    on_a_gpu(monkeypatch, fast=True)
    monkeypatch.setattr("sys.argv", ["vtlm_fairseq", "--fast", form])
    runpy.run_module("vtlm_fairseq", run_name="__main__")
    printed = capsys.readouterr().out.split()
    line = ("data", "--task", "visual_translation_lm", "--arch", "vtlm", "--criterion", "vtlm", "--optimizer", "adam",
            "--adam-betas", "(0.9, 0.999)")  # fmt: skip
    cfg = recipes.parsed((*line, *printed)) if form == "train" else recipes.recipe("vtlm", *printed)
    assert (cfg["optimizer"]["_name"], cfg["optimizer"]["adam_betas"]) == ("fused_adam", "(0.9, 0.999)")
    assert (cfg["task"]["autocast"], cfg["dataset"]["num_workers"]) == ("bf16", 4)


def test_table_1_on_a_gpu():
    """Our rows train with what uses it; stock fairseq knows neither optimizer nor autocast."""
    size = replace(SIZES["paper"], **ON_GPU)
    data = Data(pair=("en", "de"), bpe="none", test_sets=("test",), region_sets=frozenset(), stages=(), has_cc=False,
                has_cc_regions=False, checksums={"data-bin": "0"})  # fmt: skip
    commands = {
        stage.name: stage.command for stage in Planner(Path("/nowhere"), data, size).plan(["nmt", "stock"], [1]).stages
    }
    for name, optimizer in (("nmt.1", "fused_adam"), ("stock.1", "adam")):
        command = commands[name]
        assert command[command.index("--optimizer") + 1] == optimizer
        assert command[command.index("--num-workers") + 1] == "4"
        assert ("--autocast" in command) == (name == "nmt.1")


@pytest.mark.parametrize(
    ("asked", "gpu", "message"),
    [
        ({"fp16": True}, True, None),
        ({"bf16": True}, False, None),
        ({}, False, None),
        ({"fp16": True}, False, "--fp16 .*GPU"),
        ({"fp16": True, "cpu": True}, True, "--fp16 .*GPU"),
        ({"bf16": True, "tpu": True}, True, "torch_xla"),
    ],
)
def test_precisions_that_fairseq_cannot_train_in(monkeypatch, asked, gpu, message):
    """bf16 of fairseq-hydra-train needs no TPU; fairseq-train's does."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    common = SimpleNamespace(**{"cpu": False, "tpu": False, "fp16": False, "bf16": False, **asked})
    with nullcontext() if message is None else pytest.raises(VTLMError, match=message):
        precision.check_training(common)
