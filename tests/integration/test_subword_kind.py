"""Data without text.json whose sub-words stand on one side only: tables and probes take them as text.json would say."""

import json
import shutil

import numpy as np
import pytest

from harness import write_lines
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter
from vtlm_fairseq.text.pipeline import TextPipeline

NAMES = [f"wo{k}rt" for k in range(7)]
FOLDERS = ("bin", "said")


def found(done) -> dict:
    return json.loads(done.output[done.output.index("{\n") :])


@pytest.fixture(scope="module")
def halves(run, corpus, tmp_path_factory):
    """The toy corpus whose German words are ``Wo3@@ rt``; English has no marks. Without and with text.json."""
    folder = tmp_path_factory.mktemp("halves")
    argv = ["-s", "en", "-t", "de", "--destdir", folder / "bin"]
    for split, option in (("train", "--trainpref"), ("valid", "--validpref")):
        write_lines(folder / f"{split}.en", corpus.lines(split, "en"))
        words = (line.replace("Wort", "").split() for line in corpus.lines(split, "de"))
        write_lines(folder / f"{split}.de", (" ".join(f"Wo{word}@@ rt" for word in line) for line in words))
        write_lines(folder / f"bin/{split}.images", corpus.images(split))
        argv += [option, folder / split]
    run.preprocess(*argv)
    shutil.copytree(folder / "bin", folder / "said")
    write_lines(folder / "said/bpe.codes", ["r t</w>"])
    TextPipeline("en", "de", steps=(), bpe="subword_nmt").save(folder / "said")
    return folder


def test_nouns(run, corpus, halves):
    """The German word of a noun is both of its sub-words."""
    words = write_lines(halves / "words", [f"word{k}" for k in range(30)])
    run("vtlm_fairseq.cli.prepare", "nouns", halves / "bin", "--words", words)
    rows = np.load(halves / "bin" / "train.en-de.nouns")["rows"]
    assert len(rows) > 100 and (rows[:, 4] - rows[:, 3] == 2).all() and (rows[:, 3] % 2 == 0).all()


def test_probes(run, corpus, halves):
    """The figures are those with text.json; no model knows the German words, all would know their last sub-words."""
    run.pretrain(halves / "bin", halves / "tlm", "--max-update", "40", "--lr", "3e-3")
    run.train(halves / "bin", halves / "mmt", "-s", "de", "-t", "en", "--disable-validation", regions=corpus.regions)
    theirs, store = RegionStore.open(str(corpus.regions), "valid"), halves / "valid.h5"
    with RegionStoreWriter(store, feature_dim=theirs.feature_dim, class_names=NAMES, detector="named") as writer:
        for row, image in enumerate(theirs.ids()):
            writer.add(image, **theirs[row]._asdict())
    words = write_lines(halves / "words", [f"word{k}" for k in range(30)])
    tlm, mmt = (("--system", halves / name / "checkpoint_last.pt", "--format", "json") for name in ("tlm", "mmt"))
    for argv in (
        ("last-word", *tlm, "--subsets", "valid", "--region-order", "none"),
        ("masked-noun", *tlm, "--subsets", "valid", "--words", words, "--sentences", "log_p.tsv"),
        ("pointing", *mmt, "--gen-subset", "valid", "--regions", store, "--any-detector"),
    ):
        bare, said = (found(run.probe(argv[0], halves / name, *argv[1:], cwd=halves / name)) for name in FOLDERS)
        assert bare == said, argv[0]
    bare, said = ((halves / name / "log_p.tsv").read_text() for name in FOLDERS)
    assert bare == said
