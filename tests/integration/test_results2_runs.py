"""results2.py over small models of each kind, and the tables of what it leaves."""

import json
import shutil
from functools import partial

import pytest
import recipes  # noqa: F401  (puts the examples on the path)
from preparation import annotation, write
from results2_tables import MEASURES, Records

from harness import ROOT, write_lines
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter
from vtlm_fairseq.text.pipeline import TextPipeline

FORKED = ROOT / "tests" / "support" / "table1_forked.py"
NAMES = [f"word{k}" for k in range(7)]


@pytest.fixture(scope="module")
def world(corpus, vtlm, tlm, mmt, nmt, tmp_path_factory):
    """Ended runs of four systems, one that has not ended, data, regions whose classes are words, Entities."""
    folder = tmp_path_factory.mktemp("results2")
    shutil.copytree(corpus.data, folder / "data")
    TextPipeline("en", "de", steps=(), bpe="none").save(folder / "data")
    for lang in ("en", "de"):
        write_lines(folder / "data" / "references" / f"valid.{lang}", corpus.lines("valid", lang))
    theirs = RegionStore.open(str(corpus.regions), "valid")
    (folder / "regions").mkdir()
    with RegionStoreWriter(folder / "regions" / "valid.h5", feature_dim=theirs.feature_dim, class_names=NAMES,
                           detector=theirs.detector) as writer:  # fmt: skip
        for row, image in enumerate(theirs.ids()):
            writer.add(image, **theirs[row]._asdict())
    captions = {}
    for image, line in zip(corpus.images("valid"), corpus.lines("valid", "en"), strict=True):
        first, *rest = line.split()
        captions.setdefault(image, []).append(" ".join([f"[/EN#1/people {first}]", *rest]))
    for image, lines in captions.items():
        write_lines(folder / "entities" / "Sentences" / f"{image}.txt", lines)
        write(folder / "entities" / "Annotations" / f"{image}.xml", annotation(9, 9, [((0, 0, 5, 5), (1,))]))
    for name, path in (("vtlm.1", vtlm), ("tlm.1", tlm), ("vtlm_mmt.1", mmt), ("nmt.1", nmt), ("nmt.2", nmt)):
        shutil.copytree(path.parent, folder / "runs" / name)
        path = folder / "runs" / name / path.name
        path.rename(path.with_name("checkpoint_best.pt"))
        if name != "nmt.2":
            write(folder / "runs" / name / "done", "")
    return folder


def measure(run, world, *argv, **kwargs):
    options = [f"--{name}={world / name}" for name in ("runs", "data", "regions", "entities", "out", "records")]
    options += ["--split", "valid", "--repeats", "2", "--least", "1", "--any-detector"]
    return run(FORKED, *options, *argv, env={"EXAMPLE": "results2"}, timeout=400, **kwargs)


def test_records_and_tables(run, corpus, world):
    """Every measure of every run that has ended; a second call measures nothing; the tables say what the records do."""
    measure(run, world)
    assert measure(run, world).output.count("done before") == 2 + 2 + 2 + (4 + 1 + 3 + 1) + (1 + 1 + 1)
    found = Records(world / "records", "valid", partial(corpus.lines, "valid", "de"))
    tables = {name: made(found) for name, made in MEASURES.items()}
    nouns = {tuple(row[:4]): row for row in tables["masked nouns"].rows}
    table = json.loads((world / "records/valid/masked-noun/vtlm.1.json").read_text())["rows"]
    for language, group in (("EN", "all"), ("DE", "named by a region")):
        (theirs,) = (
            row for row in table if (row["masked"], row["word"], row["nouns"]) == ("both", language.lower(), group)
        )
        ours = nouns["VTLM", 1, language, group][4:9]
        assert ours == pytest.approx(
            [theirs[name] for name in ("number", "given", "shuffled", "hidden", "given - shuffled")]
        )
    assert nouns["TLM", 1, "EN", "all"][5:] == [None, None, nouns["TLM", 1, "EN", "all"][7], *[None] * 5]
    assert {row[0] for row in tables["last words"].rows} == {"VTLM", "TLM"}

    (mmt,) = (row for row in tables["translation"].rows if row[0] == "VTLM -> MMT")
    path = world / "runs/vtlm_mmt.1/checkpoint_best.pt"
    decoded = run.generate(world / "data", path, "--gen-subset", "valid", "--beam", "8", "--max-len-a", "1.5",
                           "--max-len-b", "10", "--any-detector", regions=world / "regions")  # fmt: skip
    assert mmt[2] == pytest.approx(TOKENISED.score(decoded.hypotheses(), corpus.lines("valid", "de")).value)
    assert [row[:2] for row in tables["masked entities"].rows] == [["NMT from scratch", 1], ["VTLM -> MMT", 1]]
    margins = {row[0]: row for row in tables["contrastive"].rows}
    theirs = json.loads((world / "records/valid/contrastive/vtlm_mmt.1.json").read_text())["rows"][1]
    expected = [theirs[name] for name in ("lines", "accuracy", "shuffled accuracy", "given - shuffled")]
    assert margins["VTLM -> MMT"][2:6] == pytest.approx(expected, abs=1e-3)
    grounding = {(row[0], row[2]): row[3:6] for row in tables["grounding"].rows}
    assert set(grounding) == {
        *(("VTLM", f"masked noun, {language}") for language in ("EN", "DE")),
        ("VTLM -> MMT", "right translation of two"),
    }
    assert grounding["VTLM", "masked noun, DE"] == pytest.approx([ours[1], ours[2], ours[4]])
    shares = [theirs[name] for name in ("accuracy", "shuffled accuracy")]
    right = grounding["VTLM -> MMT", "right translation of two"]
    assert right == pytest.approx([*shares, shares[0] - shares[1]], abs=1e-3)
    assert [row[0] for row in tables["attention"].rows] == ["VTLM -> MMT"] * 2


def test_gradients(run, corpus, world):
    """Lengths and cosine of one batch's two gradients; a text-only run has one only, and is refused."""
    argv = (
        "--runs",
        world / "runs",
        "--data",
        corpus.data,
        "--regions",
        corpus.regions,
        "--records",
        world / "records",
    )
    run(ROOT / "examples" / "multi30k" / "results2_gradients.py", *argv, "vtlm.1")
    (row,) = MEASURES["gradients"](Records(world / "records", "valid", list)).rows
    assert row[:2] == ["VTLM", 1] and row[4] == pytest.approx(row[3] / row[2], rel=1e-2) and -1 < row[5] < 1
    assert min(row[2:4]) > 0
    run(ROOT / "examples" / "multi30k" / "results2_gradients.py", *argv, "tlm.1", ok=False).fault("tlm.1")


def test_faults(run, world):
    """A run that has not ended, and one that is no system, are one line each."""
    measure(run, world, "--only", "nmt.2", ok=False).fault("nmt.2", "done")
    write(world / "runs" / "vtml.1" / "done", "")
    write(world / "runs" / "vtml.1" / "checkpoint_best.pt", "")
    measure(run, world, ok=False).fault("vtml")
    shutil.rmtree(world / "runs" / "vtml.1")
