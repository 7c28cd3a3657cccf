"""vtlm-prepare contrastive, and vtlm-probe contrastive --margins on what it made, against the scores of each line."""

import csv
import json
import shutil

import numpy as np
import pytest

from harness import ROOT, write_lines
from vtlm_fairseq.evaluation.paired import mcnemar, paired_t
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter

NAMES = [f"word{k}" for k in range(7)]


@pytest.fixture(scope="module")
def made(run, corpus, tmp_path_factory):
    """A set of the test split, whose classes are called as words; and its store."""
    folder = tmp_path_factory.mktemp("contrastive")
    theirs = RegionStore.open(str(corpus.regions), "test")
    store = folder / "test.h5"
    with RegionStoreWriter(store, feature_dim=theirs.feature_dim, class_names=NAMES, detector="named") as writer:
        for row, image in enumerate(theirs.ids()):
            writer.add(image, **theirs[row]._asdict())
    argv = (corpus.data, "--regions", store, "--least", "1")
    run(ROOT / "preprocess" / "make_contrastive.py", *argv, "--out", folder / "set")
    run("vtlm_fairseq.cli.prepare", "contrastive", *argv, "--out", folder / "again")
    for path in (folder / "set").iterdir():
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes()
    run("vtlm_fairseq.cli.prepare", "contrastive", *argv, "--out", folder / "set", ok=False).fault("exists", "--out")
    return folder / "set", store


@pytest.mark.parametrize("more", [-1, 1])
def test_ids_that_are_not_those_of_the_lines(run, corpus, made, tmp_path, more):
    """Too few, or as many as there are and another: a shifted list gave each sentence another's image."""
    shutil.copytree(corpus.data, tmp_path / "bin")
    ids = corpus.images("test")
    write_lines(tmp_path / "bin" / "test.images", ids[:-1] if more < 0 else [ids[0], *ids])
    argv = ("contrastive", tmp_path / "bin", "--regions", made[1], "--least", "1", "--out", tmp_path / "set")
    done = run("vtlm_fairseq.cli.prepare", *argv, ok=False)
    done.fault("test.images", f"{len(ids)} ", f"{len(ids) + more} ")
    assert not (tmp_path / "set").exists()


def lines(folder, name) -> list[list[str]]:
    return [line.split() for line in (folder / name).read_text().splitlines()]


def test_one_word_is_wrong(corpus, made):
    """Of another class than those of the image and of the sentence; it stands behind the same word in training."""
    folder, store = made
    opened = RegionStore.open(str(store), "test")
    behind = set()
    for text in corpus.lines("train", "de"):
        behind |= set(zip(["", *text.split()], text.split(), strict=False))
    files = [lines(folder, name) for name in ("src.en", "src.mask.en", "correct.de", "incorrect.de", "images")]
    with open(folder / "items.tsv", encoding="utf-8") as file:
        items = list(csv.DictReader(file, delimiter="\t"))
    assert len(items) == len(files[0]) > 3
    for source, masked, right, wrong, (image,), item in zip(*files, items, strict=True):
        line = int(item["line"]) - 1
        assert " ".join(source) == corpus.lines("test", "en")[line] and image == corpus.images("test")[line]
        assert " ".join(right) == corpus.lines("test", "de")[line]
        (at,) = (k for k in range(len(right)) if right[k] != wrong[k])
        assert (right[at], wrong[at]) == (item["right"], item["wrong"]) and len(right) == len(wrong)
        assert masked == [*source[:at], "<mask>", *source[at + 1 :]] and source[at] == item["noun"]
        there = {NAMES[k] for k in opened[int(opened.rows([image])[0])].labels}
        assert item["noun"] in there and item["noun"] == item["right"].replace("Wort", "word")
        assert item["wrong"].replace("Wort", "word") in set(NAMES) - there - set(source)
        assert (right[at - 1] if at else "", wrong[at]) in behind


def test_margins(run, corpus, mmt, nmt, made, tmp_path):
    """The means of what --sentences writes with given and with shuffled regions; a text-only model has one."""
    folder, store = made
    files = [part for option, name in (("--src", "src.mask.en"), ("--correct", "correct.de"),
             ("--incorrect", "incorrect.de"), ("--images", "images")) for part in (option, folder / name)]  # fmt: skip
    argv = ("contrastive", "--system", f"MMT={mmt}", *files, "--preprocessed", "--data", corpus.data, "--regions",
            store, "--any-detector", "--cpu", "--format", "json")  # fmt: skip
    more = ("--system", f"NMT={nmt}", "--margins", "--repeats", "1", "--sentences", tmp_path / "margins")
    done = run("vtlm_fairseq.cli.probe", *argv, *more)
    found = {(row["system"], row["score"]): row for row in json.loads(done.output[done.output.index("{\n") :])["rows"]}
    differences = {}
    for order in ("given", "shuffle"):
        run("vtlm_fairseq.cli.probe", *argv, "--region-order", order, "--sentences", tmp_path / order)
        with open(tmp_path / order, encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        both = [[float(row[f"{side} log-probability"]) for row in rows] for side in ("correct", "incorrect")]
        differences[order] = np.subtract(*both)
    given, shuffled = differences["given"], differences["shuffle"]
    row, images = found["MMT", "log-probability"], np.array(lines(folder, "images"))[:, 0]
    expected = [given.mean(), shuffled.mean(), 100 * (shuffled > 0).mean(), *paired_t(given - shuffled, images)]
    names = ["margin", "shuffled margin", "shuffled accuracy", "given - shuffled", "from", "to", "p (t)"]
    assert [row[name] for name in names] == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert row["p (McNemar)"] == pytest.approx(mcnemar(given > 0, shuffled > 0))
    assert row["right"] == (given > 0).sum()
    with open(tmp_path / "margins", encoding="utf-8") as file:
        written = list(csv.DictReader(file, delimiter="\t"))
    of_each = [[float(row[name]) for row in written if row["system"] == "MMT"] for name in names[:2]]
    assert of_each == [pytest.approx(given, abs=1e-6), pytest.approx(shuffled, abs=1e-6)]
    assert [row["shuffled right"] == "1" for row in written if row["system"] == "MMT"] == (shuffled > 0).tolist()
    assert {row["shuffled margin"] for row in written if row["system"] == "NMT"} == {""}
    alone = found["NMT", "log-probability"]
    assert alone["margin"] is not None and alone["shuffled margin"] is alone["p (t)"] is None
    run("vtlm_fairseq.cli.probe", *argv, "--margins", "--region-order", "none", ok=False).fault("--region-order none")
    write_lines(tmp_path / "one", [images[0]] * len(images))
    done = run("vtlm_fairseq.cli.probe", *argv, "--images", tmp_path / "one", "--margins", ok=False)
    done.fault(f"--images {tmp_path / 'one'}", "--margins", "two images")
