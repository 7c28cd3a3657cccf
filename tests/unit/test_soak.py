"""The judgement of tests/qa/soak/run.py, on samples with and without a leak."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

PATH = Path(__file__).parents[1] / "qa" / "soak" / "run.py"


@pytest.fixture(scope="module")
def soak():
    """The script as a module."""
    return SimpleNamespace(**runpy.run_path(str(PATH)))


def samples(soak, *, updates=2000, grown=0.0, files=0):
    """A look every five updates; what grows does so evenly.

    Until update 600 the memory is half of what it is later. Every 280 updates there is one look without batches on
    their way, which hold 120 files, and at a worker that has just begun.

    Args:
        grown: share by which the memory of training has grown at the end.
        files: that have leaked at the end.
    """
    made = []
    for update in range(0, updates, 5):
        share, between = update / updates, update % 280 == 0
        memory = 600 * (1 + grown * share) * (0.5 if update < 600 else 1)
        open_files = 35 + int(files * share) + (0 if between else 120)
        made.append(soak.Sample(update / 2, update, 1, "training", memory, memory / 2, open_files))
        made.append(soak.Sample(update / 2, update, 2, "worker", 100 if between else 500, 200, 40 if between else 60))
    return made


def test_a_flat_run_has_no_faults(soak):
    found = soak.series(samples(soak))
    assert {(one.kind, one.figure): (one.values[0], len(one.values)) for one in found} == {
        ("training", "rss"): (600, 14), ("training", "pss"): (300, 14), ("training", "files"): (155, 14),
        ("worker", "rss"): (500, 14), ("worker", "pss"): (200, 14), ("worker", "files"): (60, 14),
    }  # fmt: skip
    assert soak.judge(found) == []
    assert [round(one.slope, 9) for one in found if one.figure != "files"] == [0, 0, 0, 0]


@pytest.mark.parametrize(("grown", "flat"), [(0.04, True), (0.09, False)])
def test_growth_of_memory(soak, grown, flat):
    """Fourteen of twenty windows come after the warm-up: their largest values grow by 2.6 % and 5.7 %."""
    found = soak.series(samples(soak, grown=grown))
    assert found[0].slope == pytest.approx(600 * grown / 2, rel=0.01)
    assert soak.judge(found) == ([] if flat else ["training rss: from 619 to 654 MB, 5.7%"])


def test_what_is_left_behind_and_runs_that_are_too_short(soak):
    """Of leaked files, one in 100 updates; between epochs 8 of them are there at update 840, 14 at update 1400."""
    assert soak.judge(soak.series(samples(soak, files=20))) == ["training files: from 43 to 49 that stay open"]
    (line, *others) = soak.judge(soak.series(samples(soak, updates=650)), left=["process 7"])
    assert line == "left behind: process 7"
    assert len(others) == 6 and others[0] == "training rss: 1 windows after the warm-up; train for longer"
