"""Faults of input and options: one clear line, another exit status than 0, no stack."""

import shutil
import sys

import h5py
import numpy as np
import pytest
from fairseq import options

from harness import write_lines
from toy import make_corpus, spoil, with_nan


@pytest.fixture
def bad(corpus, tmp_path):
    """A copy of the corpus to spoil."""
    return corpus.copy(tmp_path / "bad")


def refused(run, corpus, *argv, regions=None, data=None):
    """The result of pre-training that must not start."""
    return run.pretrain(data or corpus.data, corpus.folder / "ckpt", *argv, regions=regions or corpus.regions, ok=False)


def test_no_such_store(run, bad):
    refused(run, bad, regions=bad.folder / "nowhere.h5").fault("nowhere.h5", "no such file")
    bad.store("valid").unlink()
    refused(run, bad).fault("valid.h5", "train")


@pytest.mark.parametrize(("split", "workers"), [("train", 2), ("valid", 0)])
def test_not_finite(run, bad, split, workers):
    """The image is named, from a loader's worker too."""
    with h5py.File(bad.store(split), locking=False) as file:
        row = int(np.flatnonzero(np.diff(file["offsets"][:]))[0])
        image = file["ids"].asstr()[row]
    spoil(bad.store(split), "features", with_nan)
    argv = ("--num-workers", workers, "--max-epoch", "1", "--max-update", "99")
    refused(run, bad, *argv).fault(repr(image), f"{split}.h5", "not finite")
    if split == "train":
        tuned = run.train(bad.data, bad.folder / "a", *argv, regions=bad.regions, ok=False)
        tuned.fault(repr(image), "not finite")


@pytest.mark.parametrize(
    ("array", "change", "what"), [("features", with_nan, "not finite"), ("boxes", lambda boxes: boxes * 640, "0 to 1")]
)
def test_not_finite_or_in_pixels_in_decoding(run, bad, mmt, array, change, what):
    spoil(bad.store("test"), array, change)
    run.generate(bad.data, mmt, "--num-workers", "2", regions=bad.regions, ok=False).fault("test.h5", what)


@pytest.fixture(scope="module")
def foreign(run, corpus, tmp_path_factory):
    """A corpus whose dictionary differs by one symbol, the 25th."""
    folder = tmp_path_factory.mktemp("foreign")
    lines = (corpus.data / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    lines[20] = "another 1"
    return make_corpus(run, folder / "toy", dictionary=write_lines(folder / "dict.txt", lines))


def test_foreign_dictionary(run, corpus, vtlm, mmt, foreign, tmp_path):
    """PITFALLS 7: dictionaries that differ by one symbol, in fine-tuning, decoding and validation."""
    symbol = (corpus.data / "dict.en.txt").read_text(encoding="utf-8").splitlines()[20].split()[0]
    tuned = run.train(foreign.data, tmp_path / "a", "--pretrained", vtlm, regions=foreign.regions, ok=False)
    tuned.fault("symbol 24", symbol, "another", "--pretrained", "--srcdict")
    decoded = run.generate(foreign.data, mmt, regions=foreign.regions, ok=False)
    decoded.fault("symbol 24", symbol, "another", "--srcdict")
    run.validate(foreign.data, vtlm, ok=False).fault("symbol 24", symbol, "another")


def test_resuming_with_a_foreign_dictionary(run, vtlm, mmt, foreign, tmp_path):
    """PITFALLS 7: fairseq's trainer does not hand the checkpoint's task state to the task; refused all the same."""
    for path, train in ((vtlm, run.pretrain), (mmt, run.train)):
        folder = tmp_path / path.parent.name
        folder.mkdir()
        shutil.copy(path, folder / "checkpoint_last.pt")
        resumed = train(foreign.data, folder, "--max-update", "99", regions=foreign.regions, ok=False)
        resumed.fault("symbol 24", "another")


def test_same_ids_in_both_tasks(run, corpus, vtlm, mmt):
    """PITFALLS 7: the pre-trained and the fine-tuned model agree on every symbol; ``<mask>`` is a line of the file."""
    import torch

    symbols = [torch.load(path, weights_only=True)["task_state"]["symbols"] for path in (vtlm, mmt)]
    assert symbols[0] == symbols[1]
    lines = (corpus.data / "dict.en.txt").read_text(encoding="utf-8").splitlines()
    assert symbols[0][4:] == [line.split()[0] for line in lines]
    assert "<mask>" in symbols[0] and len(symbols[0]) % 8 == 0


def test_pretrained_of_another_size(run, corpus, vtlm, tmp_path):
    """PITFALLS 9: the option is named."""
    argv = ("--pretrained", vtlm, "--max-positions", "99")
    run.train(corpus.data, tmp_path, *argv, regions=corpus.regions, ok=False).fault("--pretrained", "--max-positions")


def test_no_such_data(run, corpus, mmt, tmp_path):
    """No such folder or split, in training and in decoding."""
    refused(run, corpus, data=tmp_path / "nowhere").fault("nowhere", "does not exist")
    run.generate(tmp_path / "nowhere", mmt, ok=False, regions=corpus.regions).fault("nowhere", "does not exist")
    refused(run, corpus, "--train-subset", "train7", "--regions", "none").fault("train7")
    refused(run, corpus, "--valid-subset", "valid7").fault("no split 'valid7'", str(corpus.data))
    decoded = run.generate(corpus.data, mmt, "--gen-subset", "test7", regions=corpus.store("test"), ok=False)
    decoded.fault("'test7'")


def test_targets_that_cannot_be_written(run, corpus, mmt, tmp_path):
    """fairseq would end in a stack, of results and logs after it has read all data."""
    file = write_lines(tmp_path / "file", ["x"])
    for target in (file, file / "x", "/proc/none"):
        run.pretrain(corpus.data, target, ok=False).fault(f"--save-dir {target}", "cannot be written")
        run.generate(corpus.data, mmt, "--results-path", target, regions=corpus.regions, ok=False).fault(
            f"--results-path {target}"
        )
    for target in (file / "x", tmp_path / "none/x", tmp_path):
        run.pretrain(corpus.data, tmp_path / "ckpt", "--log-file", target, ok=False).fault(f"--log-file {target}")
    assert file.read_text() == "x\n" and not (tmp_path / "ckpt").exists()


def test_targets_of_another_rank(monkeypatch):
    """Only the first rank makes --save-dir; a log that is there is added to, whatever folder it lies in."""
    argv = ["data", "--task", "visual_translation_lm", "--arch", "vtlm_tiny", "--save-dir", "/proc/none"]

    def parse(*more: str):
        monkeypatch.setattr(sys, "argv", ["fairseq-train", *argv, *more])
        return options.parse_args_and_arch(options.get_training_parser(), [*argv, *more])

    with pytest.raises(SystemExit, match="--save-dir /proc/none"):
        parse()
    assert parse("--distributed-rank", "1").save_dir == "/proc/none"
    for name in ("RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            with pytest.raises(SystemExit, match="--save-dir /proc/none"):
                parse()
            patch.setenv(name, "1")
            assert parse("--log-file", "/proc/self/comm").log_file == "/proc/self/comm"


@pytest.mark.parametrize("task", ["pretrain", "train"])
def test_over_long_sentences(run, corpus, tmp_path, task):
    """PITFALLS 12: training skips them with a count; valid and test stop, and skip on request."""
    argv = ["--max-source-positions", "12", "--max-epoch", "1", "--max-update", "99"]
    train = getattr(run, task)
    train(corpus.data, tmp_path, *argv, regions=corpus.regions, ok=False).fault(
        "line 2", "12", "--skip-invalid-size-inputs-valid-test"
    )
    skipped = sum(len(line.split()) + 2 > 12 for line in corpus.lines("train", "en"))
    argv.append("--skip-invalid-size-inputs-valid-test")
    trained = train(corpus.data, tmp_path, *argv, regions=corpus.regions)
    assert f"{skipped} pairs are longer than (12, 512)" in trained.output
    assert sum(update["bsz"] for update in trained.updates()) == 45 - skipped


def test_shuffling_a_single_image(run, bad):
    write_lines(bad.data / "train.images", [bad.images("train")[0]] * 45)
    refused(run, bad, "--region-order", "shuffle").fault("train", "1 image", "--region-order none")
