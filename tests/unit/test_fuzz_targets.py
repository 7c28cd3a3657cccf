"""A short run of each target of tests/qa/fuzz, and that its harness sees faults."""

import os
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FUZZ = ROOT / "tests" / "qa" / "fuzz"
sys.path.insert(0, str(FUZZ))

import fuzzing  # noqa: E402

SLOWER = {"layouts": 60, "captions": 100, "translate_lines": 100, "tars": 100, "checkpoints": 100, "region_stores": 20}
CASES = dict.fromkeys(fuzzing.TARGETS, 200) | SLOWER | {"original_checkpoints": 50}
SEED = 20  # not that of the long runs


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_only_allowed_outcomes(name):
    if name == "tars":
        pytest.importorskip("PIL", reason="Pillow is not installed")
    report = fuzzing.run(import_module(name).setup, CASES[name], seed=SEED)
    assert not report.faults, "\n".join(
        f"{kind} {report.faults[kind]}\n{report.details[kind]}" for kind in report.faults
    )
    assert report.accepted + report.refused == CASES[name], report.line(name)
    assert report.accepted and (report.refused or name == "captions"), report.line(name)


def test_every_target_is_run_here():
    targets = {path.stem for path in FUZZ.glob("*.py")} - {"fuzzing", "hostile", "mutations"}
    assert targets == set(CASES)


def broken(folder):
    """A target with each kind of fault, by the case's first draw."""
    from vtlm_fairseq.errors import VTLMError

    def case(rng):
        number = int(rng.random() * 8)
        if number == 1:
            raise VTLMError("one line")
        if number == 2:
            raise SystemExit("two\nlines")
        if number == 3:
            raise KeyError("a stack")
        if number == 4:
            os.kill(os.getpid(), 11)
        if number == 5:
            raise AssertionError("wrong acceptance")
        if number == 6:
            bytearray(1 << 36)
        if number == 7:
            time.sleep(60)

    return case


@pytest.mark.slow
def test_the_harness_counts_every_kind_of_fault():
    report = fuzzing.run(broken, 40, seed=3, limit=0.2)
    count = sum(map(len, report.faults.values()))
    assert report.accepted + report.refused + count == 40 and report.accepted and report.refused
    kinds = "\n".join(report.faults)
    for part in (
        "ends with 'two\\nlines'",
        "KeyError at",
        "killed by SIGSEGV",
        "wrong acceptance",
        "MemoryError",
        "no end",
    ):
        assert part in kinds, kinds
    numbers = sorted(number for cases in report.faults.values() for number in cases)
    assert len(set(numbers)) == len(numbers) and 0 <= numbers[0] and numbers[-1] < 40


@pytest.mark.slow
def test_a_case_is_the_same_whatever_came_before():
    whole = fuzzing.run(broken, 20, seed=3, limit=0.2)
    tail = fuzzing.run(broken, 8, seed=3, first=12, limit=0.2)
    late = {kind: [number for number in numbers if number >= 12] for kind, numbers in whole.faults.items()}
    assert tail.faults == {kind: numbers for kind, numbers in late.items() if numbers} != {}


def test_a_target_that_cannot_start_is_an_error():
    def setup(folder):
        raise ValueError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        fuzzing.run(setup, 5)
