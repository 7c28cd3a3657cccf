"""Faults of input and options: one clear line, another exit status than 0, no stack."""

import shutil

import h5py
import numpy as np
import pytest

from harness import write_lines
from stores import make_store
from toy import DIM, make_corpus, spoil, with_nan


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


def test_wrong_schema(run, bad):
    bad.store("train").write_text("not HDF5")
    refused(run, bad).fault("train.h5")
    bad.store("train").unlink()
    with h5py.File(bad.store("train"), "w") as file:
        file["features"] = np.zeros((3, DIM), np.float16)
    refused(run, bad).fault("train.h5")


def test_missing_ids(run, bad):
    """PITFALLS 24: the first five are named."""
    ids = list(dict.fromkeys(bad.images("train")))
    make_store(bad.store("train"), ids[6:], feature_dim=DIM, num_classes=7)
    line = refused(run, bad).fault("6 image ids are missing", "train.h5")
    assert ", ".join(ids[:5]) in line and ids[5] not in line


def test_wrong_feature_width(run, bad, vtlm, mmt):
    """Fine-tuning, decoding, and splits that do not fit each other."""
    for split in ("train", "valid", "test"):
        ids = sorted(set(bad.images(split)))
        make_store(bad.store(split), ids, feature_dim=10, num_classes=7)
    tuned = run.train(bad.data, bad.folder / "a", "--pretrained", vtlm, regions=bad.regions, ok=False)
    tuned.fault("12", "10", "same detector")
    run.generate(bad.data, mmt, regions=bad.regions, ok=False).fault("10 wide", "12", "same detector")
    make_store(bad.store("valid"), sorted(set(bad.images("valid"))), feature_dim=11, num_classes=7)
    refused(run, bad).fault("11 wide", "10", "valid")


def test_label_out_of_range(run, bad):
    def change(labels):
        labels[3] = 7
        return labels

    spoil(bad.store("train"), "labels", change)
    refused(run, bad).fault("train.h5", "7")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "valid"])
def test_not_finite(run, bad, workers, split):
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


def test_not_finite_in_decoding(run, bad, mmt):
    spoil(bad.store("test"), "features", with_nan)
    run.generate(bad.data, mmt, "--num-workers", "2", regions=bad.regions, ok=False).fault("test.h5", "not finite")


@pytest.mark.parametrize("task", ["pretrain", "train"])
def test_images_that_do_not_fit_the_text(run, bad, task):
    """Shorter, longer, missing."""
    train = getattr(run, task)
    names = bad.images("train")
    for lines in (names[:-1], [*names, names[0]]):
        write_lines(bad.data / "train.images", lines)
        faulty = train(bad.data, bad.folder / "ckpt", regions=bad.regions, ok=False)
        faulty.fault("train.images", f"{len(lines)} lines", "45 pairs")
    (bad.data / "train.images").unlink()
    train(bad.data, bad.folder / "ckpt", regions=bad.regions, ok=False).fault("train.images", "no such file")


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


def test_dictionaries_that_are_not_joint(run, bad):
    lines = (bad.data / "dict.de.txt").read_text(encoding="utf-8").splitlines()
    write_lines(bad.data / "dict.de.txt", [*lines[:-1], "another 0"])
    refused(run, bad).fault("dict.en.txt", "dict.de.txt", "another", "--joined-dictionary")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--encoder-layers", "3"), ("--decoder-layers", "3"), ("--encoder-embed-dim", "16"), ("--max-positions", "99"),
     ("--encoder-ffn-embed-dim", "128")],
)  # fmt: skip
def test_pretrained_of_another_size(run, corpus, vtlm, tmp_path, option, value):
    """PITFALLS 9: the option is named."""
    argv = ("--pretrained", vtlm, option, value)
    run.train(corpus.data, tmp_path, *argv, regions=corpus.regions, ok=False).fault("--pretrained", option)


def test_pretrained_that_is_none(run, corpus, mmt, tmp_path):
    """No such file, a cut-off file."""
    cut = tmp_path / "cut.pt"
    cut.write_bytes(mmt.read_bytes()[:5000])
    for path, part in ((tmp_path / "none.pt", "no such file"), (cut, "not a")):
        argv = ("--pretrained", path)
        run.train(corpus.data, tmp_path / "a", *argv, regions=corpus.regions, ok=False).fault(str(path), part)


def test_no_such_data(run, corpus, mmt, tmp_path):
    """No such folder, in training and in decoding; no such split; no dictionary."""
    refused(run, corpus, data=tmp_path / "nowhere").fault("nowhere", "does not exist")
    run.generate(tmp_path / "nowhere", mmt, ok=False, regions=corpus.regions).fault("nowhere", "does not exist")
    refused(run, corpus, "--train-subset", "train7", "--regions", "none").fault("train7")
    refused(run, corpus, "--valid-subset", "valid7").fault("no split 'valid7'", str(corpus.data))
    decoded = run.generate(corpus.data, mmt, "--gen-subset", "test7", regions=corpus.store("test"), ok=False)
    decoded.fault("no split 'test7'")
    bad = corpus.copy(tmp_path / "bad")
    (bad.data / "dict.de.txt").unlink()
    refused(run, bad).fault("dict.de.txt")


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


@pytest.mark.parametrize(
    ("argv", "part"),
    [(("--langs", "en,fr"), "lacks 'de'"), (("--langs", "en,de,image"), "image"), (("--langs", "en,de,en"), "distinct"),
     (("--mask-prob", "1.5"), "--mask-prob"), (("--region-random-prob", "0.95"), "--region-random-prob"),
     (("--max-regions", "0"), "--max-regions"), (("--region-dim", "13"), "--region-dim")],
)  # fmt: skip
def test_options_out_of_range(run, corpus, argv, part):
    refused(run, corpus, *argv).fault(part)


def test_shuffling_a_single_image(run, bad):
    write_lines(bad.data / "train.images", [bad.images("train")[0]] * 45)
    refused(run, bad, "--region-order", "shuffle").fault("train", "1 image", "--region-order none")
