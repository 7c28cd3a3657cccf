"""The study runner over a small grid on generated data: its figures, second calls, changed grids, faults."""

import fcntl
import json
import statistics
import sys
from argparse import Namespace

import pytest
import recipes  # noqa: F401  (puts the examples on the path)

from harness import ROOT

sys.path.append(str(ROOT / "examples" / "masking_study"))

from study import Study  # noqa: E402

pytestmark = pytest.mark.slow
pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra `plots`)")

FORKED = ROOT / "tests" / "support" / "table1_forked.py"
TRAIN = {"arch": "vtlm_tiny", "region-layernorm": True, "batch-size": 16, "optimizer": "adam", "lr": 0.001,
         "max-update": 4, "save-interval-updates": 2, "disable-validation": True,
         "no-epoch-checkpoints": True}  # fmt: skip
STRATEGIES = {"random": {}, "overlap": {"region-masking": "overlap", "region-mask-overlap": 0.01}}
GRID = {
    "quickstart": {"seed": 1, "train-size": 270, "valid-size": 9, "test-size": 18},
    "axes": {"strategy": STRATEGIES, "region-mask-prob": [0.4]},
    "seeds": [1, 2],
    "train": TRAIN,
    "probe": {"subsets": "test", "words": "data/ambiguous.en", "repeats": 2},
    "figure": {"masked": "both", "word": "de", "nouns": "all"},
}
DIFFERENCE = "log p, given - shuffled"


def study(run, folder, grid, *argv, **kwargs):
    """Run a grid (JSON is YAML, too) in ``folder/out``."""
    path = folder / "grid.yaml"
    path.write_text(grid if isinstance(grid, str) else json.dumps(grid), encoding="utf-8")
    return run(FORKED, path, "--out", folder / "out", "--cpu", *argv, env={"EXAMPLE": "study"}, timeout=400, **kwargs)


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The folder of two strategies with two seeds each."""
    folder = tmp_path_factory.mktemp("study")
    study(run, folder, GRID)
    return folder


def times(folder):
    """Of all files but the lock."""
    return {path: path.stat().st_mtime_ns for path in (folder / "out").rglob("*") if path.name != ".lock"}


def rows(folder):
    """Of the table, by strategy."""
    found = json.loads((folder / "out" / "grounding.json").read_text(encoding="utf-8"))["rows"]
    return {row["strategy"]: row for row in found}


def test_figures_are_those_of_the_probe(run, whole):
    """Means over the seeds and Student's interval by hand; the seeds and strategies are trainings of their own."""
    table, every = rows(whole), []
    assert list(table) == ["random", "overlap"]
    for strategy, row in table.items():
        found = []
        for path in sorted((whole / "out/runs").glob(f"{strategy}-0.4-*-seed[12]/checkpoint_last.pt")):
            probed = run.probe("masked-noun", whole / "out/data-bin", "--system", f"X={path}", "--regions",
                               whole / "out/data/regions", "--subsets", "test", "--repeats", "2", "--words",
                               whole / "out/data/ambiguous.en", "--format", "json")  # fmt: skip
            (one,) = (one for one in probed.table()["rows"] if GRID["figure"].items() <= one.items())
            found.append(one)
        assert (len(found), row["seeds"], row["nouns"]) == (2, 2, found[0]["number"])
        for name in ("given", "shuffled", "hidden", "given - shuffled", DIFFERENCE):
            assert row[name] == pytest.approx(statistics.fmean(one[name] for one in found)), name
        half = 12.7062047 * abs(found[0][DIFFERENCE] - found[1][DIFFERENCE]) / 2  # t with one degree of freedom
        assert [row["log p from"], row["log p to"]] == pytest.approx([row[DIFFERENCE] - half, row[DIFFERENCE] + half])
        every += [one[DIFFERENCE] for one in found]
    assert len(set(every)) == 4
    assert (whole / "out/grounding.png").read_bytes().startswith(b"\x89PNG")


def test_second_call_and_changed_grid(run, whole):
    """Nothing is run twice; what has other options is run, and the rest stays, also when the grid changes back."""
    before = times(whole)
    again = study(run, whole, GRID)
    assert again.output.count("done before") == 2 + 4 * 2
    after = times(whole)
    plot = whole / "out/grounding.png"
    assert {**before, plot: 0, plot.parent: 0} == {**after, plot: 0, plot.parent: 0}

    axes = {**GRID["axes"], "strategy": {**STRATEGIES, "overlap": {"region-masking": "salient"}}}
    first = rows(whole)
    changed = study(run, whole, {**GRID, "axes": axes, "seeds": [1]})
    assert (changed.output.count("done before"), changed.output.count("done in")) == (2 + 2, 2)
    assert {name: row["seeds"] for name, row in rows(whole).items()} == {"random": 1, "overlap": 1}
    assert rows(whole)["overlap"]["from"] is None
    assert study(run, whole, GRID).output.count("done before") == 2 + 4 * 2
    assert rows(whole) == first


CASES = {
    "unknown key": ({**GRID, "axess": {}}, "axess"),
    "no seeds": ({key: value for key, value in GRID.items() if key != "seeds"}, "seeds"),
    "a seed twice": ({**GRID, "seeds": [1, 1]}, "seeds"),
    "no YAML": ("axes: [", "no grid"),
    "unknown option": ({**GRID, "train": {**TRAIN, "drop-out": 0.1}}, "--drop-out"),
    "unknown strategy": ({**GRID, "axes": {"region-masking": ["random", "sibling"]}}, "sibling"),
    "unknown option of the probe": ({**GRID, "probe": {"line": "x"}}, "--line"),
    "no value": ({**GRID, "train": {**TRAIN, "lr": None}}, "lr"),
    "the runner's option": ({**GRID, "train": {**TRAIN, "save-dir": "x"}}, "save-dir"),
    "two axes": ({**GRID, "axes": {"a": {"b": {"dropout": 0}}, "dropout": [0, 0.1]}}, "dropout"),
    "data of one's own": ({key: value for key, value in GRID.items() if key != "quickstart"}, "--data"),
}


@pytest.mark.parametrize("case", CASES)
def test_faults(run, tmp_path, case):
    """One line each, before anything is made."""
    grid, said = CASES[case]
    study(run, tmp_path, grid, ok=False).fault(said)
    assert not (tmp_path / "out").exists()


def test_a_figure_that_is_not_there(run, whole):
    """Says which one was asked for, and which there are."""
    grid = {**GRID, "figure": {"masked": "both", "word": "nouns", "nouns": "all"}}
    study(run, whole, grid, ok=False).fault("'word': 'nouns'", "0 rows", "masked: both, word: de, nouns: all")


def test_two_calls_at_once(run, whole):
    with (whole / "out" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        study(run, whole, GRID, ok=False).fault("another run")


@pytest.mark.parametrize(("name", "runs"), [("quickstart", 3 * 2 * 3), ("multi30k", 6 * 2 * 3)])
def test_grids_of_the_example(tmp_path, name, runs):
    """fairseq-train and vtlm-probe know all their options."""
    own = tmp_path if name == "multi30k" else None
    grid = ROOT / "examples" / "masking_study" / f"{name}.yaml"
    study = Study(Namespace(grid=grid, out=tmp_path, data=own, regions=own, user_dir=None, cpu=True))
    study.check()
    assert len({run.name for run in study.runs}) == runs
