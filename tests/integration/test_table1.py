"""The runner of Table 1 at its tiny size on generated data: rows of each kind, resuming, what it leaves."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import sacrebleu
import torch
from preparation import annotation
from qa.faults.kills import Running

from harness import ROOT, write_lines
from toy import Corpus, make_corpus

FORKED = ROOT / "tests" / "support" / "table1_forked.py"
ROWS = ["nmt_cc", "vtlm_mmt"]
FIRST = ("--seeds", "1", "--rows", ",".join(ROWS))


@pytest.fixture(scope="module")
def corpora(run, tmp_path_factory) -> tuple[Corpus, Corpus]:
    """A small corpus in place of Multi30k and one in place of Conceptual Captions, with the same dictionary.

    An epoch has 7 updates, a tiny training 6: a run that is resumed in a later epoch gets other batches from fairseq.
    """
    folder = tmp_path_factory.mktemp("table 1")
    m30k = make_corpus(run, folder / "m30k", {"train": 50, "valid": 8, "test": 8}, words=12)
    sizes = {"train": 50, "valid": 5, "test": 5}
    cc = make_corpus(run, folder / "cc", sizes, words=12, dictionary=m30k.data / "dict.en.txt", seed=9)
    return m30k, cc


def options(corpora, out: Path, *argv) -> list[str]:
    """Arguments of the runner."""
    m30k, cc = corpora
    data = ["--data", m30k.data, "--regions", m30k.regions, "--cc-data", cc.data, "--cc-regions", cc.regions]
    return [str(a) for a in ("--size", "tiny", "--out", out, *data, "--test-sets", "test", "--threads", "1", *argv)]


@pytest.fixture(scope="module")
def whole(run, corpora, tmp_path_factory):
    """A text-only row on both corpora and a pre-trained MMT row with one seed, and copies for inference."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = run(FORKED, *options(corpora, out, *FIRST, "--keep", out.parent / "kept"), timeout=900)
    return out, done


def files(out: Path) -> dict[Path, int]:
    """Times of all files."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock" and not path.is_symlink()}


def table(out: Path) -> dict[tuple[str, str], dict]:
    """Rows of the JSON table by title and regions."""
    (content,) = json.loads((out / "table1.json").read_text(encoding="utf-8"))
    return {(row["system"], row["regions"]): row for row in content["rows"]}


def record(out: Path, name: str, seed: int = 1) -> dict:
    """The ``run.json`` of a row."""
    return json.loads((out / name / str(seed) / "run.json").read_text(encoding="utf-8"))


def test_rows(whole):
    """MMT with given, shuffled (by five derangements) and hidden regions, NMT once; BLEU is that of the files, by
    sacreBLEU."""
    out, done = whole
    rows = table(out)
    assert len(rows) == 1 + 3
    references = (out / "hyp/test/references.de").read_text(encoding="utf-8").splitlines()
    assert len(references) == 8
    for name in ROWS:
        for regions in ("given",) if name == "nmt_cc" else ("given", "shuffled", "hidden"):
            row = rows[record(out, name)["title"], "none" if name == "nmt_cc" else regions]
            files = sorted((out / "hyp/test").glob(f"{name}.1.{regions}*.de"))
            assert len(files) == (5 if (name, regions) == ("vtlm_mmt", "shuffled") else 1)
            decoded = [path.read_text(encoding="utf-8").splitlines() for path in files]
            scores = [sacrebleu.corpus_bleu(hyps, [references], tokenize="none", force=True).score for hyps in decoded]
            bleu = pytest.approx(statistics.fmean(scores))
            assert (row["BLEU"], row["maximum"]) == (bleu, bleu)
            assert (row["seeds"], row["deviation"]) == (1, None)
    assert "VTLM: pre-trained on Conceptual Captions" in done.output
    assert "--pretrained" not in record(out, "nmt_cc")["command"]


def test_run_json(whole, corpora):
    """Checksums are those of the files; seed, command, versions, device, wall time; no path of the data."""
    out, _ = whole
    found = record(out, "vtlm_mmt")
    assert {"commit", "device", "versions", "changed_since_commit"} <= found.keys()
    assert found["versions"]["torch"] == torch.__version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert (found["seed"], found["updates"]["last"]) == (1, 6)
    assert 0 < found["seconds"] < 300
    for part, name, path in (("dictionary", "dict.de.txt", corpora[0].data), ("data", "train.images", corpora[0].data),
                             ("regions", "train.h5", corpora[0].regions)):  # fmt: skip
        sums = subprocess.run(["sha256sum", path / name], capture_output=True, text=True, check=True).stdout
        assert found[part][name] == sums.split()[0]
    assert str(corpora[0].folder) not in json.dumps(found)
    assert record(out, "nmt_cc")["regions"] is None
    assert found["pretrained"]["system"] == "vtlm"
    best = torch.load(out / "vtlm_mmt/1/checkpoint_best.pt", weights_only=True)["extra_state"]["best"]
    assert table(out)["VTLM -> MMT", "given"]["valid. perplexity"] == pytest.approx(2**best)


def test_inference_copies(whole, run, corpora):
    """Half precision, no optimiser, dictionaries beside it; it decodes as the checkpoint does."""
    out, _ = whole
    kept = out.parent / "kept" / "vtlm_mmt" / "1"
    assert {path.name for path in kept.iterdir()} == {"checkpoint_best.pt", "dict.de.txt", "dict.en.txt", "run.json"}
    state = torch.load(kept / "checkpoint_best.pt", weights_only=True)
    assert state["last_optimizer_state"] is None
    assert {tensor.dtype for tensor in state["model"].values()} <= {torch.float16}
    decoded = run.generate(corpora[0].data, kept / "checkpoint_best.pt", "--max-len-b", "3", regions=corpora[0].regions)
    assert decoded.ids() == list(range(8))


def test_second_call_does_nothing_and_more_seeds_add_to_it(whole, run, corpora):
    """Finished stages stay as they are, also when the data have moved; a second seed gives a deviation."""
    out, first = whole
    before = files(out)
    again = run(FORKED, *options(corpora, out, *FIRST, "--keep", out.parent / "kept"))
    assert files(out) == before
    assert again.output.count("done before") == len(re.findall(r"^\d+/\d+ ", first.output, re.M))
    assert again.output.split("test, size tiny")[1] == first.output.split("test, size tiny")[1]

    moved = [corpus.copy(out.parent / corpus.folder.name) for corpus in corpora]
    more = run(FORKED, *options(moved, out, "--seeds", "1,2", "--rows", "nmt_cc"))
    assert re.findall(r"^\d+/\d+ +(\w.*?)  .*done in", more.output, re.M) == [
        "nmt_cc 2", "decode nmt_cc 2, given",
    ]  # fmt: skip
    row = table(out)["NMT + CC", "none"]
    assert len(table(out)) == 1 + 3  # what earlier calls have finished is in the table, too
    scores = [record(out, "nmt_cc", seed)["scores"]["test"]["given"]["BLEU"]["value"] for seed in (1, 2)]
    assert row["deviation"] == pytest.approx(statistics.stdev(scores))
    assert (row["BLEU"], row["maximum"]) == (pytest.approx(sum(scores) / 2), max(scores))


def test_killed_in_a_training_it_resumes_to_the_same_table(run, whole, corpora, tmp_path):
    """SIGKILL after a checkpoint of a training that is not finished; the same call ends with the same figures."""
    out = tmp_path / "out"
    argv = (FORKED, *options(corpora, out, "--seeds", "1", "--rows", "nmt_cc"))
    while not killed_in_training(runner := Running(run, *argv), out):
        assert runner.status != 0, "the trainings ended before they could be killed"
        shutil.rmtree(out)
    run(*argv)
    log = "".join(path.read_text(encoding="utf-8") for path in (out / "logs").glob("nmt_cc*.log"))
    assert log.count("Loaded checkpoint") == 1
    assert record(out, "nmt_cc")["scores"] == record(whole[0], "nmt_cc")["scores"]
    name = "nmt_cc.1.given.de"
    assert (out / "hyp/test" / name).read_bytes() == (whole[0] / "hyp/test" / name).read_bytes()
    best = "nmt_cc/1/checkpoint_best.pt"
    ours, theirs = (torch.load(folder / best, weights_only=True)["model"] for folder in (out, whole[0]))
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def killed_in_training(runner: Running, out: Path) -> bool:
    """Kill the runner when a training has a checkpoint; whether the training was not finished."""
    begun, finished = (out / "stamps" / f"nmt_cc.1.{kind}" for kind in ("started", "json"))
    while not runner.wait(0):
        if begun.exists() and list((out / "nmt_cc/1").glob("checkpoint_*_[24].pt")):
            runner.kill()
            # until the lock of the folder is free: the command has ended with its runner
            subprocess.run(["flock", "--timeout", "60", out / ".lock", "true"], check=True)
            return not finished.exists()
    return False


def test_raw_data_are_prepared_first(run, tmp_path):
    """Text and oracle regions from raw files; the table says that they are oracle regions.

    Rows that need CC are left out with a line; fairseq's own transformer is trained and decoded.
    """
    sizes = {"train": 24, "val": 8, "test_2016_flickr": 8}
    number = 100
    for split, size in sizes.items():
        ids = range(number, number + size)
        number += size
        write_lines(tmp_path / f"splits/{split}.txt", (f"{i}.jpg" for i in ids))
        write_lines(tmp_path / f"raw/{split}.en", (f"A man sees {i} dogs." for i in ids))
        write_lines(tmp_path / f"raw/{split}.de", (f"Ein Mann sieht {i} Hunde." for i in ids))
        for i in ids:
            captions = [f"[/EN#1/people A man] sees [/EN#2/animals {i} dogs] .", *(4 * ["[/EN#1/people A man] ."])]
            write_lines(tmp_path / f"entities/Sentences/{i}.txt", captions)
            boxes = [((0, 0, 50, 50), (1,)), ((10, 10, 90, 90), (2,))]
            write_lines(tmp_path / f"entities/Annotations/{i}.xml", [annotation(100, 100, boxes)])
    out = tmp_path / "out"
    argv = ["--raw", tmp_path / "raw", "--image-splits", tmp_path / "splits", "--entities", tmp_path / "entities"]
    argv += ["--any-counts", "--vocab-size", "60", "--size", "tiny", "--out", out, "--seeds", "1"]
    argv += ["--rows", "stock,nmt_cc,vtlm_m30k_mmt,mmt"]
    done = run(FORKED, *argv)
    assert "oracle regions: human boxes" in done.output
    assert "test_2016_flickr, size tiny" in done.output
    assert "nmt_cc is left out: it needs Conceptual Captions (--cc-data)" in done.output
    assert "vtlm_m30k_mmt is left out" in done.output
    assert {key[0] for key in table(out)} == {record(out, name)["title"] for name in ("mmt", "stock")}
    found = record(out, "mmt")
    assert {"valid.images", "text.json", "bpe.model"} <= found["data"].keys()
    assert set(found["regions"]) == {"train.h5", "valid.h5", "test_2016_flickr.h5", "translated_captions.tsv"}
    for name in ("mmt", "stock"):
        hypotheses = (out / f"hyp/test_2016_flickr/{name}.1.given.de").read_text(encoding="utf-8")
        assert hypotheses.count("\n") == 8 and "\u2581" not in hypotheses
    state = files(out)
    subprocess.run(["flock", "--timeout", "60", out / ".lock", "true"], check=True)  # a loader's worker still ends
    run(FORKED, *argv)
    assert files(out) == state
    run(FORKED, *argv, "--cc-regions", tmp_path, ok=False).fault("--cc-data")
