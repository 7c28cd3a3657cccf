"""Tables of PROTOCOL-2.md by hand: what is summed over lines, images and seeds, and what the names of runs mean."""

import csv
import json
import re

import pytest
import recipes  # noqa: F401  (puts the examples on the path)
from preparation import write
from results2 import learning_curve, margin_sums, noun_sums
from results2_plot import main as draw
from results2_systems import find_runs, find_system
from results2_tables import MEASURES, TABLES, Records
from results_page import Results, with_tables

from harness import ROOT, write_lines
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED

REFERENCE = ["ein mann fährt ein rotes rad .", "zwei hunde rennen am strand .", "eine frau liest ein buch im park ."]
WRONG = ["ein mann fährt ein blaues rad .", *REFERENCE[1:]]


def table(folder, name, split="valid"):
    made = MEASURES[name](Records(folder, split, lambda: REFERENCE))
    return [dict(zip(made.columns, row, strict=True)) for row in made.rows]


def nouns(folder, run, lines):
    """A record of masked nouns, the same in both languages."""
    record = {"sentences": {"en": lines, "de": lines}}
    write(folder / "valid" / "masked-noun" / f"{run}.json", json.dumps(record))


@pytest.mark.slow
def test_the_plot_is_of_the_records(tmp_path):
    """A bar for what is there: three of VTLM, one of TLM in each language; two seeds of VTLM are one bar."""
    pytest.importorskip("matplotlib")
    for run, given in (("vtlm.1", [2, 1, 0]), ("vtlm.2", [1, 1, 0]), ("tlm.7", [None, None, 1])):
        nouns(tmp_path, run, [[1, 1, 2, *given]])
    (tmp_path / "valid").rename(tmp_path / "test_2016_flickr")
    draw(["--records", str(tmp_path), "--out", str(tmp_path / "made.svg")])
    text = (tmp_path / "made.svg").read_text(encoding="utf-8")
    assert [text.count(f"<!-- {value} -->") for value in ("75.0", "50.0", "0.0")] == [2, 4, 2]


def test_masked_nouns(tmp_path):
    """Seed 1: 3 of 4 nouns given, 1.5 shuffled; of the named 2 of 2 and 1. Seed 2: 2 of 4, 1.5; named 1 of 2, 1."""
    nouns(tmp_path, "vtlm.1", [[1, 1, 2, 2, 1, 0], [5, 0, 2, 1, 0.5, 2]])
    nouns(tmp_path, "vtlm.2", [[1, 1, 2, 1, 1, 0], [5, 0, 2, 1, 0.5, 0]])
    nouns(tmp_path, "tlm.7", [[1, 1, 2, None, None, 1], [5, 0, 2, None, None, 2]])
    rows = {(row["system"], row["language"], row["nouns"]): row for row in table(tmp_path, "masked nouns")}
    row = rows["VTLM", "DE", "all"]
    assert [row[name] for name in ("seeds", "number", "given", "shuffled", "hidden", "given - shuffled")] == (
        pytest.approx([2, 4, 62.5, 37.5, 25, 25])
    )
    assert row["from"] < 25 < row["to"] and 0 < row["p"] < 1
    row = rows["VTLM", "EN", "named by a region"]
    assert [row[name] for name in ("number", "given", "shuffled", "given - shuffled")] == pytest.approx([2, 75, 50, 25])
    row = rows["TLM", "EN", "all"]
    assert (row["given"], row["hidden"], row["p"]) == (None, 75, None)
    (row,) = (
        row for row in table(tmp_path, "masked nouns compared") if (row["language"], row["nouns"]) == ("EN", "all")
    )
    assert (row["compared with"], row["what"], row["seeds"]) == ("TLM", "accuracy", "2 and 1")
    assert row["difference"] == pytest.approx(62.5 - 75)
    nouns(tmp_path, "noise.1", [[1, 1, 2, 1, 1, 0], [5, 0, 2, 1, 2, 0]])
    row = table(tmp_path, "masked nouns compared")[0]  # given - shuffled of noise: -25
    assert (row["compared with"], row["what"]) == ("VTLM, features are noise", "given - shuffled")
    assert row["difference"] == pytest.approx(50)


@pytest.mark.parametrize("content", [b'{"sentences": {"en": [[1, ', b"[]", b"\xff", None])
def test_a_record_that_is_damaged_is_named(tmp_path, content):
    """Those of both protocols; None: it is not there."""
    for path in (tmp_path / "valid/masked-noun/vtlm.1.json", tmp_path / "runs/nmt.1.json"):
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_bytes(content)
    with pytest.raises(VTLMError, match=r"nmt\.1\.json"):
        Results(tmp_path, tmp_path).run("nmt.1")
    if content is not None:
        with pytest.raises(VTLMError, match=r"vtlm\.1\.json"):
            table(tmp_path, "masked nouns")


def test_sums_of_the_probes(tmp_path):
    """Of nouns masked in both languages; of contrastive lines by image."""
    names = ["masked", "word", "line", "named", "nouns", "given", "shuffled", "hidden"]
    rows = [["en", "en", 1, 1, 1, 1, 1, 1], ["both", "en", 3, 1, 2, 2, 1.4, 0], ["both", "de", 3, 0, 1, "", "", 1]]
    path = write_lines(tmp_path / "nouns.tsv", ["\t".join(map(str, row)) for row in [names, *rows]])
    assert noun_sums(path) == {"en": [[3, 1, 2, 2, 1.4, 0]], "de": [[3, 0, 1, None, None, 1]]}
    with open(tmp_path / "margins.tsv", "w", encoding="utf-8") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["margin", "shuffled margin", "shuffled right"])
        out.writerows([[0.5, 0.25, 0.5], [-0.25, 0.25, 1], [1, -1, 0]])
    images = write_lines(tmp_path / "images", ["b", "a", "b"])
    assert margin_sums(tmp_path / "margins.tsv", images=images) == [[2, 1.5, -0.75, 2, 0.5], [1, -0.25, 0.25, 0, 1]]


def test_training(tmp_path):
    """Epochs by a log; TLM has as many words right as VTLM at its end after its second epoch of three."""
    lines = [f'x | INFO | {split} | {json.dumps(record)}' for split, record in (
        ("train", {"epoch": 1, "train_loss": "9", "train_mlm_accuracy": "31.5", "train_mrc_accuracy": "50",
                   "train_num_updates": "7", "train_gnorm": "2.5"}),
        ("valid", {"epoch": 1, "valid_loss": "9", "valid_mlm_accuracy": "30", "valid_mrc_accuracy": "40",
                   "valid_num_updates": "7"}),
        ("valid", {"epoch": 2, "valid_loss": "9", "valid_mlm_accuracy": "32", "valid_mrc_accuracy": "41",
                   "valid_num_updates": "9"}),
    )]  # fmt: skip
    (epoch,) = learning_curve(write_lines(tmp_path / "log", lines))
    assert epoch == {"updates": 7, "train words": 31.5, "train regions": 50, "valid words": 30, "valid regions": 40,
                     "gradient": 2.5}  # fmt: skip
    for run, values in (("vtlm.1", (10, 30)), ("tlm.1", (20, 30, 40))):
        epochs = [{**epoch, "updates": 7 * k, "valid words": value} for k, value in enumerate(values, 1)]
        write(tmp_path / "valid" / "training" / f"{run}.json", json.dumps({"epochs": epochs}))
    vtlm, tlm = table(tmp_path, "training")
    assert (vtlm["updates"], vtlm["val"], vtlm["TLM has as many after"], vtlm["of val"]) == (14, 30, 14, 40)
    assert (tlm["TLM has as many after"], tlm["of val"]) == (21, None)


def test_contrastive(tmp_path):
    """3 lines of two images: 2 and 1 right, mean margins 1.25 / 3 and -0.5 / 3."""
    record = {"sentences": [[2, 1.5, -0.75, 2, 0.5], [1, -0.25, 0.25, 0, 1]]}
    write(tmp_path / "valid" / "contrastive" / "vtlm_mmt.1.json", json.dumps(record))
    (row,) = table(tmp_path, "contrastive")
    assert [row[name] for name in ("lines", "right, %, given", "right, %, shuffled")] == pytest.approx([3, 200 / 3, 50])
    assert row["margin, given - shuffled"] == pytest.approx((1.25 + 0.5) / 3)

    record = {"sentences": [[2, 1.0, 0.25, 2, 0.5], [1, 0.5, 0.5, 1, 1]]}  # own regions add 0.75 / 3
    write(tmp_path / "valid" / "contrastive" / "tlm_mmt.1.json", json.dumps(record))
    (row,) = table(tmp_path, "contrastive compared")
    assert (row["system"], row["compared with"]) == ("VTLM -> MMT", "TLM -> MMT")
    assert row["given - shuffled"] == pytest.approx((1.75 - 0.75) / 3)


def test_translation(tmp_path):
    """Two seeds, one right; derangements are pooled; the test of two systems is of all their seeds."""
    folder = tmp_path / "valid" / "hyp"
    for seed, lines in ((1, REFERENCE), (2, WRONG)):
        for decoding in ("given", "shuffled1", "shuffled2", "none"):
            write_lines(folder / f"vtlm_mmt.{seed}.{decoding}.de", WRONG if decoding != "given" else lines)
        write_lines(folder / f"tlm_mmt.{seed}.given.de", WRONG)
        write_lines(folder / f"vtlm_mmt_1k.{seed}.mask.given.de", WRONG)
    x = TOKENISED.score(WRONG, REFERENCE).value
    rows = {row["system"]: row for row in table(tmp_path, "translation")}
    row = rows["VTLM -> MMT"]
    assert [row[name] for name in ("seeds", "BLEU, given", "shuffled", "hidden")] == pytest.approx(
        [2, (100 + x) / 2, x, x]
    )
    assert row["given - shuffled"] == pytest.approx((100 - x) / 2)
    assert rows["TLM -> MMT"]["shuffled"] is rows["TLM -> MMT"]["p"] is None
    (row,) = table(tmp_path, "translation compared")
    assert (row["compared with"], row["difference of mean BLEU"]) == ("TLM -> MMT", pytest.approx((100 - x) / 2))
    assert table(tmp_path, "masked entities") == []


def test_names(tmp_path):
    titles = {
        "tlm": "TLM",
        "nouns_145k": "VTLM, aligned nouns masked, 145,000 captions",
        "vtlm_145k_mmt": "VTLM, 145,000 captions -> MMT",
        "tlm_nmt_1k": "TLM -> NMT, 1,000 pairs",
        "mmt_5k": "MMT from scratch, 5,000 pairs",
    }
    assert {name: find_system(name).title for name in titles} == titles
    regions = {name: find_system(name).regions for name in ("tlm", "vtlm15", "noise_mmt", "vtlm_nmt", "mmt", "tlm_mmt")}
    assert list(regions.values()) == [None, "regions", "noise", None, "regions", "regions"]
    for name in ("vtlm_1k", "vtml", "mmt_145k"):
        with pytest.raises(VTLMError, match=name):
            find_system(name)
    for run in ("vtlm.10", "vtlm.2", "tlm.1"):
        write(tmp_path / run / "checkpoint_best.pt", "")
        write(tmp_path / run / "done", "")
    (tmp_path / "tlm.1" / "done").unlink()
    assert [run.name for run in find_runs(tmp_path)] == ["vtlm.2", "vtlm.10"]


def test_tables_of_a_page(tmp_path):
    """They are found by split and name, in the folder beside that of the first results."""
    nouns(tmp_path / "results2", "vtlm.1", [[1, 1, 2, 2, 1, 0], [5, 0, 2, 1, 0.5, 2]])
    text = "".join(f"<!-- table: {name} -->\n<!-- end -->\n" for name in TABLES)
    for split in ("valid", "test_2016_flickr"):
        write_lines(tmp_path / f"{split}.de", REFERENCE)
    made = with_tables(text, Results(tmp_path / "results", tmp_path), name="A.md")
    assert made.count("| VTLM ") == 4 + 2


def test_figures_of_the_summary_stand_in_the_tables():
    """What the first lines of RESULTS.md say is measured; a figure that is mended in a table alone is found here."""
    page = (ROOT / "examples/multi30k/RESULTS.md").read_text(encoding="utf-8")
    summary = re.search(r"^## Summary\n\n(.*?)\n\n", page, re.M | re.S)[1]
    assert len(summary.splitlines()) == 10
    cells = {cell.strip().lstrip("-") for line in page.splitlines() if line.startswith("|") for cell in line.split("|")}
    figures = re.findall(r"(?<![\w.])\d+\.\d(?![\w.]*\d)", summary)
    assert len(figures) > 10 and [figure for figure in figures if figure not in cells] == []
