"""What results_page.py makes of what the runner leaves: statistics by hand, verdicts, the committed tables."""

import json
import math
import shutil

import pytest
import recipes  # noqa: F401  (puts the examples on the path)
import results_page as page
from preparation import DATA, needs_data
from results_page import COMPARISONS, PAGES, RESULTS, TEST_SET, Pair, Results, collect, compare, verdict
from table1_rows import ROWS

from harness import write_lines
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.tables import Table

REFERENCE = ["ein mann fährt ein rotes rad .", "zwei hunde rennen am strand .", "eine frau liest ein buch im park ."]
WRONG = ["ein mann fährt ein blaues rad .", "zwei hunde rennen am strand .", "eine frau liest ein buch im park ."]


def record(best: float, updates: int = 9, *, device: str = "CPU: x", torch: str = "2.13") -> dict:
    return {
        "device": device,
        "versions": {"torch": torch},
        "selection": {"best": best},
        "updates": {"best": updates, "last": updates + 1},
    }


@pytest.fixture
def small(tmp_path) -> Results:
    """NMT: three seeds, one of them right; VTLM -> MMT: right, wrong by each of five derangements, hidden right."""
    write_lines(tmp_path / f"references/{TEST_SET}.de", REFERENCE)
    folder = tmp_path / "results"
    for seed, lines in ((1, REFERENCE), (2, WRONG), (3, WRONG)):
        write_lines(folder / f"hyp/{TEST_SET}/nmt.{seed}.given.de", lines)
        write_lines(folder / f"runs/nmt.{seed}.json", [json.dumps(record(seed))])
    for decoding in ("given", "hidden", *(f"shuffled{n}" for n in ("", 2, 3, 4, 5))):
        write_lines(folder / f"hyp/{TEST_SET}/vtlm_mmt.1.{decoding}.de", WRONG if "shuffled" in decoding else REFERENCE)
    write_lines(folder / "runs/vtlm_mmt.1.json", [json.dumps(record(2.0))])
    return Results(folder, tmp_path / "references")


def cells(table, title: str) -> dict:
    """A row of a table by its columns."""
    (row,) = [row for row in table.rows if row[0] == title]
    return dict(zip(table.columns, row, strict=True))


def test_tables_of_bleu(small):
    """Mean, deviation with n - 1 and maximum of 100, x, x; perplexities 2, 4 and 8; one seed has no deviation."""
    right, x, same = small.bleu("nmt")
    nmt = cells(page.main_table(small), "NMT from scratch")
    assert (right, same) == (pytest.approx(100), x)
    assert x < 90
    assert (nmt["seeds"], nmt["maximum"]) == (3, pytest.approx(100))
    assert nmt["BLEU"] == pytest.approx((100 + 2 * x) / 3)
    assert nmt["deviation"] == pytest.approx((100 - x) / 3**0.5)
    assert nmt["perplexity, val (used for selection)"] == pytest.approx((2 + 4 + 8) / 3)
    assert nmt["updates to the best checkpoint"] == "9, 9, 9"
    mmt = cells(page.main_table(small), "VTLM -> MMT")
    assert (mmt["seeds"], mmt["deviation"], mmt["regions"]) == (1, None, "oracle")

    row = cells(page.orders_table(small), "VTLM -> MMT")  # shuffled: the mean over the derangements
    assert row["BLEU, given"] == row["BLEU, hidden"] == pytest.approx(100)
    assert row["BLEU, shuffled"] == pytest.approx(x)
    assert row["derangements a seed"] == 5


def test_beside_fairseq(small):
    """On the sets that both have decoded, in three lines: six seeds, the first three, those added. One of ours says 19
    of the 21 words, and has all of them right; of fairseq's the one that was added does."""
    short = [*REFERENCE[:2], "eine frau liest ein buch im"]
    for seed, lines in ((1, REFERENCE), (2, short), (5, REFERENCE)):
        write_lines(small.folder / f"hyp/valid/nmt.{seed}.given.de", lines)
    for seed, lines in ((1, REFERENCE), (4, short)):
        write_lines(small.folder / f"hyp/valid/stock.{seed}.given.de", lines)
    write_lines(small.folder.parent / "references/valid.de", REFERENCE)
    table = page.fairseq_table(small)
    every, first, added = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    right, x = small.bleu("nmt", test_set="valid")
    assert right == pytest.approx(100) and x == pytest.approx(100 * math.exp(1 - 21 / 19))
    assert {row["set"] for row in (every, first, added)} == {"val (used for selection)"}
    assert [row["seeds"] for row in (every, first, added)] == ["1 to 6", "1 to 3", "4 to 6"]
    ours, theirs = "ours, ", "fairseq's, "
    assert first[ours + "BLEU"] == pytest.approx((100 + x) / 2)
    assert first[ours + "deviation"] == pytest.approx((100 - x) / 2**0.5)
    assert first[ours + "length"] == pytest.approx((21 + 19) / 2 / 21)
    assert [first[theirs + name] for name in ("BLEU", "deviation", "length")] == [pytest.approx(100), None, 1]
    assert first["difference"] == pytest.approx((x - 100) / 2)
    assert [added[name + "BLEU"] for name in (ours, theirs)] == pytest.approx([100, x])
    assert added[theirs + "length"] == pytest.approx(19 / 21)
    assert [every[name + "BLEU"] for name in (ours, theirs)] == pytest.approx([(200 + x) / 3, (100 + x) / 2])
    assert every["difference"] == pytest.approx((200 + x) / 3 - (100 + x) / 2)
    assert [row["without brevity penalty"] for row in (every, first, added)] == pytest.approx([0, 0, 0])


@pytest.mark.slow
def test_added_seeds_are_of_one_comparison(small):
    """They enter the one that asked for them, and no other comparison and no other row."""
    for name in ("nmt", "stock"):
        for seed in page.ADDED_SEEDS:
            write_lines(small.folder / f"hyp/{TEST_SET}/{name}.{seed}.given.de", WRONG)
    beside_fairseq = COMPARISONS[0]
    assert (beside_fairseq.system, beside_fairseq.baseline) == ("nmt", "stock")
    assert len(compare(small, beside_fairseq)) == 6 * 3
    assert len(compare(small, Pair("nmt", "vtlm_mmt"))) == 3
    assert cells(page.main_table(small), "NMT from scratch")["seeds"] == 3
    tests = {beside_fairseq.key: compare(small, beside_fairseq)}
    write_lines(small.folder / "comparisons.json", [json.dumps(tests)])
    (row,) = page.comparison_table(small).rows
    right, x, _ = small.bleu("nmt")
    assert row[2] == pytest.approx((right - x) / 6)
    assert row[3].endswith(" of 18")


def test_one_test_of_all_seeds(small):
    """The difference is that of the means; decodings of one model are pairs; no seed on a side, no row."""
    found = page.compare_seeds(small, Pair("nmt", "vtlm_mmt"))
    right, x, _ = small.bleu("nmt")
    assert found["difference"] == pytest.approx((right + 2 * x) / 3 - 100) and found["seeds"] == (3, 1)
    pair = next(one for one in COMPARISONS if one.order == "shuffled")
    itself = page.compare_seeds(small, pair)
    assert itself["difference"] == pytest.approx(100 - x)
    assert page.compare_seeds(small, Pair("nmt", "stock")) is None
    write_lines(small.folder / "seeds.json", [json.dumps({pair.key: itself})])
    (row,) = page.seeds_table(small).rows
    assert row[1:3] == ["itself, regions shuffled", "1 and 1"]
    assert row[3:] == pytest.approx([100 - x, *itself["interval"], itself["p_value"], itself["detects"]])


def test_machines(small):
    """One line for each device with each PyTorch; a pre-training has no seed to be told apart by."""
    write_lines(small.folder / f"hyp/{TEST_SET}/nmt.4.given.de", REFERENCE)
    write_lines(small.folder / "runs/nmt.4.json", [json.dumps(record(1, device="H100", torch="2.11"))])
    write_lines(small.folder / "runs/vtlm.json", [json.dumps(record(1))])
    assert page.machines_table(small).rows == [
        ["CPU: x", "2.13", "vtlm; nmt 1, 2, 3; vtlm_mmt 1"],
        ["H100", "2.11", "nmt 4"],
    ]


def test_rerun(small):
    """First and second run of a row, on all test sets, and how many of the three sentences are the same."""
    again = small.folder / "rerun"
    for test_set in page.OTHER_SETS:
        write_lines(small.folder.parent / f"references/{test_set}.de", REFERENCE)
        write_lines(small.folder / f"hyp/{test_set}/nmt.1.given.de", REFERENCE)
        write_lines(again / f"hyp/{test_set}/nmt.1.given.de", WRONG)
    write_lines(again / f"hyp/{TEST_SET}/nmt.1.given.de", WRONG)
    write_lines(again / "runs/nmt.1.json", [json.dumps(record(2, device="H100", torch="2.11"))])
    wrong = pytest.approx(small.bleu("nmt")[1])
    first, second = page.rerun_table(small).rows
    assert first == ["NMT from scratch, seed 1", "first", "CPU: x", "2.13", 2, *[pytest.approx(100)] * 3, 2]
    assert second == ["NMT from scratch, seed 1", "again", "H100", "2.11", 4, *[wrong] * 3, 2]


@pytest.mark.slow
def test_every_pair_of_seeds_is_compared(small):
    """3 x 1 pairs of two systems; with itself, the same seed with each of five derangements; equal texts have p = 1."""
    found = compare(small, Pair("nmt", "vtlm_mmt"))
    assert [test["seeds"] for test in found] == [[1, 1], [2, 1], [3, 1]]
    assert (found[0]["difference"], found[0]["p"]) == (0, 1)
    assert found[1]["difference"] < -10
    assert [test["seeds"] for test in compare(small, Pair("vtlm_mmt", "vtlm_mmt", "shuffled"))] == [[1, 1]] * 5
    assert compare(small, Pair("vtlm_mmt", "tlm_mmt")) == []


@pytest.mark.parametrize(
    ("system", "baseline", "p_values", "expected"),
    [
        ([31.0, 32.0], [30.0, 30.5], [0.01, 0.04], "higher"),
        ([30.0, 30.5], [31.0, 32.0], [0.01, 0.04], "lower"),
        ([31.0, 32.0], [30.0, 30.5], [0.01, 0.05], "no difference shown"),  # one pair of seeds is not enough apart
        ([31.0, 32.0], [30.0, 31.0], [0.01, 0.01], "no difference shown"),  # the ranges touch
        ([31.0, 32.0], [29.0, 33.0], [0.01, 0.01], "no difference shown"),  # one range holds the other
        ([31.0, 32.0, 33.0], [30.0], [0.01, 0.01, 0.01], "not judged: one seed"),
        ([31.0], [29.0, 30.0], [0.01, 0.01], "not judged: one seed"),
    ],
)
def test_verdicts(system, baseline, p_values, expected):
    """The rule of the protocol: every p below 0.05, and the ranges of the seeds apart; with one seed, none is known."""
    assert verdict(system, baseline, p_values) == expected


def test_comparisons_name_rows():
    """Each is of two rows, or of a row with regions that it can decode."""
    for pair in COMPARISONS:
        assert {pair.system, pair.baseline} <= ROWS.keys()
        assert (pair.system == pair.baseline) == (pair.order != "given")
    assert len({pair.key for pair in COMPARISONS}) == len(COMPARISONS)


def test_collect_takes_what_is_finished(tmp_path):
    """Hypotheses and records of stages with a stamp; a training in the middle, or a decoding, is left."""
    out, folder = tmp_path / "out", tmp_path / "results"
    for name in ("nmt/1", "nmt/2", "tlm"):
        write_lines(out / name / "run.json", [name])
    for stamp in ("nmt.1", f"decode.nmt.1.{TEST_SET}.given", "tlm"):
        write_lines(out / f"stamps/{stamp}.json", ["{}"])
    for seed in (1, 2):
        write_lines(out / f"hyp/{TEST_SET}/nmt.{seed}.given.de", [f"seed {seed}"])
    assert collect([out], folder) == ["nmt.1", "tlm"]
    found = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert found == [f"hyp/{TEST_SET}/nmt.1.given.de", "runs/nmt.1.json", "runs/tlm.json"]


def test_tables_of_a_page(small, tmp_path, monkeypatch):
    """Each block is replaced, text around it stays; an unknown name is one line.

    --check says in one line that a page is outdated, and changes nothing; without it the page is mended.
    """
    text = "before\n<!-- table: main -->\nold\n<!-- end -->\nafter\n"
    made = page.with_tables(text, small, name="A.md")
    assert made.startswith("before\n<!-- table: main -->\n| system ") and made.endswith("\n<!-- end -->\nafter\n")
    assert "old" not in made and page.with_tables(made, small, name="A.md") == made
    with pytest.raises(VTLMError, match="A.md: no table 'mian'; there are main, "):
        page.with_tables(text.replace("main", "mian"), small, name="A.md")
    path = tmp_path / "RESULTS.md"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(page, "PAGES", (path,))
    argv = ["--results", str(small.folder), "tables", "--references", str(tmp_path / "references")]
    with pytest.raises(SystemExit, match="RESULTS.md is not what the results give; run the command without --check"):
        page.main([*argv, "--check"])
    assert path.read_text(encoding="utf-8") == text
    page.main(argv)
    page.main([*argv, "--check"])
    assert path.read_text(encoding="utf-8") == made
    with pytest.raises(VTLMError, match="--references is the folder OUT/data-bin/references"):
        Results(small.folder, tmp_path / "nowhere").bleu("nmt")


def test_probe_tables(small):
    """What vtlm-probe printed as JSON, rounded, with its notes."""
    made = Table(["system", "accuracy"], [["TLM", 30.126], ["VTLM", None]], notes=["oracle regions"])
    write_lines(small.folder / "probes/last words.json", [made.render("json")])
    text = page.with_tables("<!-- table: last words -->\n<!-- end -->", small, name="A.md")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[1:5]]
    assert [rows[0], *rows[2:]] == [["system", "accuracy"], ["TLM", "30.13"], ["VTLM", ""]]
    assert text.splitlines()[5:] == ["", "* oracle regions", "<!-- end -->"]


@needs_data
@pytest.mark.skipif(not PAGES[0].is_file(), reason="no results are committed yet")
def test_committed_tables(tmp_path):
    """The pages hold what the committed hypotheses and records give with the published references; so does a
    comparison."""
    for path in (DATA / "multi30k/tok").glob("*.lc.norm.tok.de"):
        shutil.copy(path, tmp_path / path.name.replace(".lc.norm.tok", "").replace("val.", "valid."))
    results = Results(RESULTS, tmp_path)
    for path, table in zip(PAGES, ("main", "test: grounding", "test: masked nouns"), strict=True):
        text = path.read_text(encoding="utf-8")
        assert f"<!-- table: {table} -->" in text
        assert page.with_tables(text, results, name="A.md") == text
    hidden = next(pair for pair in COMPARISONS if pair.order == "hidden")
    assert results.comparisons()[hidden.key] == compare(results, hidden)
    seeds = json.loads((RESULTS / "seeds.json").read_text(encoding="utf-8"))
    for pair in COMPARISONS[1:3]:
        assert seeds[pair.key] == json.loads(json.dumps(page.compare_seeds(results, pair)))
