"""vtlm-prepare nouns and --word-masking aligned-nouns: tables, training, other data."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import write_lines
from vtlm_fairseq.data.noun_table import read_tables
from vtlm_fairseq.regions.store import RegionStoreWriter

EXACT = ("--dropout", "0", "--attention-dropout", "0", "--lr", "1e-3", "--no-epoch-checkpoints")
NAMES = [f"word{k}" for k in range(0, 30, 3)]
MASKING = ("--word-masking", "aligned-nouns", "--aligned-share", "0.9", "--mask-prob", "0.3")


def weights(folder):
    return torch.load(folder / "checkpoint_last.pt", weights_only=True)["model"]


def prepare(run, data, *argv, **kwargs):
    return run("vtlm_fairseq.cli.prepare", "nouns", data, *argv, **kwargs)


@pytest.fixture(scope="module")
def nouns(run, corpus, tmp_path_factory) -> Path:
    """A copy of the corpus's data with tables; every third word is a noun."""
    folder = tmp_path_factory.mktemp("nouns")
    shutil.copytree(corpus.data, folder / "bin")
    done = prepare(run, folder / "bin", "--words", write_lines(folder / "words", NAMES))
    assert "train.en-de.nouns" in done.output and "valid.en-de.nouns" in done.output
    return folder / "bin"


def test_table(corpus, nouns):
    """Each noun with its word, which stands in the same place; no other word; the other direction reads it turned."""
    lines = corpus.lines("train", "en")
    known = {line: [] for line in range(len(lines))}
    for line, a, b, c, d in np.load(nouns / "train.en-de.nouns")["rows"]:
        assert (a, b) == (c, d) and b == a + 1
        known[line].append(a)
    every = {line: [k for k, word in enumerate(text.split()) if word in NAMES] for line, text in enumerate(lines)}
    assert all(set(known[line]) <= set(every[line]) for line in every)
    assert sum(map(len, known.values())) > 0.9 * sum(map(len, every.values())) > 50
    forth, back = (read_tables(str(nouns), ["valid"], pair, [13]) for pair in (("en", "de"), ("de", "en")))
    assert all((forth[line][:, [2, 3, 0, 1]] == back[line]).all() for line in range(13))
    twice = read_tables(str(nouns), ["valid", "train"], ("en", "de"), [13, 45], upsample=2)
    assert [len(twice[line]) for line in (12, 13, 25, 26)] == [len(forth[k]) for k in (12, 0, 12)] + [len(known[0])]


def test_train_resume_and_validate(run, corpus, nouns, tmp_path):
    """Stopped in the middle of the second epoch and gone on with, with workers: the weights of a run without either.

    The strategy is the checkpoint's from then on; validation hides nouns too.
    """
    argv = (*EXACT, "--max-update", "9", "--seed", "3")
    run.pretrain(nouns, tmp_path / "whole", *argv, *MASKING, regions=corpus.regions)
    run.pretrain(nouns, tmp_path / "parts", *argv, *MASKING, "--max-update", "7", regions=corpus.regions)
    run.pretrain(nouns, tmp_path / "parts", *argv, "--num-workers", "2", regions=corpus.regions)
    whole, parts = (weights(tmp_path / name) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    path = tmp_path / "whole" / "checkpoint_last.pt"
    store = ("--regions", corpus.regions)
    figures = []
    for more in ((), ("--word-masking", "random")):
        checked = run.validate(nouns, path, *store, *more)
        figures += [found["valid_mlm_loss"] for found in checked.json_lines("valid_mlm_loss")]
    assert len(set(figures)) == 2 and "was trained with --word-masking aligned-nouns" in checked.output
    run("vtlm_fairseq.cli.probe", "mrc", nouns, "--system", path, *store, "--subsets", "test", "--cpu")  # has no table
    run.pretrain(nouns, tmp_path / "random", *argv, "--mask-prob", "0.3", regions=corpus.regions)
    assert any(not torch.equal(whole[name], values) for name, values in weights(tmp_path / "random").items())


def test_a_table_of_other_data_is_refused(run, corpus, nouns, tmp_path):
    """None, one of another text, one of another dictionary, one that is cut off: one line that says what makes it."""
    spoiled = tmp_path / "bin"
    shutil.copytree(nouns, spoiled)
    argv = (spoiled, tmp_path / "out", "--word-masking", "aligned-nouns")
    table = spoiled / "train.en-de.nouns"

    def fault(*parts):
        run.pretrain(*argv, ok=False).fault(str(table), "vtlm-prepare nouns", *parts)

    table.write_bytes((nouns / "valid.en-de.nouns").read_bytes())
    fault("other text")
    table.write_bytes((nouns / "train.en-de.nouns").read_bytes()[:-40])
    fault("damaged")
    with np.load(nouns / "train.en-de.nouns") as saved, table.open("wb") as file:
        np.savez(file, **{**saved, "schema_version": np.array(99)})
    fault("99")
    table.write_bytes((nouns / "train.en-de.nouns").read_bytes())
    run.pretrain(*argv)
    dictionary = spoiled / "dict.en.txt"
    dictionary.write_bytes(dictionary.read_bytes().replace(b"word1 ", b"wort1 "))
    (spoiled / "dict.de.txt").write_bytes(dictionary.read_bytes())
    run.pretrain(*argv[:1], tmp_path / "new", *argv[2:], ok=False).fault("other text, or with another dictionary")
    table.unlink()
    run.pretrain(*argv[:1], tmp_path / "new", *argv[2:], ok=False).fault(".en-de.nouns", "vtlm-prepare nouns")
    run.pretrain(spoiled, tmp_path / "new")  # random reads none
    run.pretrain(spoiled, tmp_path / "x", "--aligned-share", "1.5", ok=False).fault("--aligned-share is 1.5")
    prepare(run, spoiled, "--words", dictionary, "--subsets", "nowhere", ok=False).fault("nowhere", "--subsets")


def test_class_names_of_the_stores_that_are_there(run, nouns, tmp_path):
    """The names of train do for valid, which has no store, and for the part train1."""
    data = tmp_path / "bin"
    shutil.copytree(nouns, data)
    for path in list(data.glob("train.*")):
        shutil.copyfile(path, data / f"train1{path.name.removeprefix('train')}")
    (tmp_path / "stores").mkdir()
    with RegionStoreWriter(tmp_path / "stores/train.h5", feature_dim=1, class_names=NAMES, detector="x") as writer:
        arrays = {"features": [[1]], "boxes": [[0, 0, 1, 1]], "labels": [0], "scores": [1]}
        writer.add("a", **{name: np.array(values) for name, values in arrays.items()})
    for subsets in ("train,valid", "train1"):
        for path in data.glob("*.nouns"):
            path.unlink()
        prepare(run, data, "--regions", tmp_path / "stores", "--subsets", subsets)
        for split in subsets.split(","):
            with np.load(data / f"{split}.en-de.nouns") as ours, np.load(nouns / f"{split[:5]}.en-de.nouns") as theirs:
                assert np.array_equal(ours["rows"], theirs["rows"])


def test_no_noun_is_no_table(run, corpus, nouns, tmp_path):
    """As with class names that are no words: aligned-nouns would be random. What was there stays, all or nothing."""
    data = tmp_path / "bin"
    shutil.copytree(nouns, data)
    table = data / "train.en-de.nouns"
    before = {path.name: path.read_bytes() for path in data.glob("*.nouns")}
    words = write_lines(tmp_path / "none", ["zebra"])
    prepare(run, data, "--words", words, ok=False).fault(f"--words {words}", "en")
    prepare(run, data, "--regions", corpus.regions, ok=False).fault("--regions", "--words")
    stores = tmp_path / "stores"
    stores.mkdir()
    shutil.copyfile(corpus.store("train"), stores / "all.h5")
    argv = ("--regions", stores, "--subsets", "train")
    prepare(run, data, *argv, ok=False).fault("neither train.h5", "all")  # as every command that asks for a split
    (stores / "all.h5").rename(stores / "train.h5")
    prepare(run, data, *argv, ok=False).fault("--regions", "--words")
    some = write_lines(tmp_path / "some", NAMES)
    prepare(run, data, "--words", some, "--subsets", "valid,no", ok=False).fault("no.en-de", "--subsets")
    assert {path.name: path.read_bytes() for path in data.glob("*.nouns")} == before
    with np.load(table) as saved:
        made = {**saved, "rows": saved["rows"][:0]}
    np.savez(table.open("wb"), **made)
    run.pretrain(data, tmp_path / "out", "--word-masking", "aligned-nouns", ok=False).fault(str(table), "--words")
    assert not (tmp_path / "out" / "checkpoint_last.pt").exists()
