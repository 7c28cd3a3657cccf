"""The listing of known traps: each has tests and faults, and docs/dev/pitfalls.md is up to date."""

import dataclasses

import pytest
from qa.pitfalls import check

FAULTS, TESTS = check.read_faults(), check.documented_tests()


def test_every_trap_has_tests_and_faults_that_fit_the_code():
    assert check.problems(FAULTS, TESTS) == []
    assert list(TESTS) == list(range(1, 33))
    assert [fault.number for fault in FAULTS] == sorted(fault.number for fault in FAULTS)


def test_the_page_is_up_to_date():
    """Mend with: python tests/qa/pitfalls/check.py --list --write docs/dev/pitfalls.md (runs no fault)."""
    assert (check.ROOT / "docs" / "dev" / "pitfalls.md").read_text(encoding="utf-8") == check.page(FAULTS, TESTS)


def test_what_does_not_fit_is_named(tmp_path):
    """A trap without a test, a test that does not name its trap, a line that has gone, a fault that is no Python."""
    some = next(fault for fault in FAULTS if fault.number == 16)
    others = [dataclasses.replace(some, **change) for change in (
        {"test": "tests/unit/test_pitfalls.py::test_nothing"}, {"before": "no such line"}, {"after": "if ("},
        {"file": "vtlm_fairseq/gone.py"},
    )]  # fmt: skip
    without = {number: tests for number, tests in TESTS.items() if number != 31}
    found = check.problems([fault for fault in FAULTS if fault.number != 5] + others, without | {33: ["a", "b"]})
    assert found[:3] == ["trap 31 has no test", "trap 5 has no fault", "a, b: there is no trap 33"]
    assert "test_nothing is no test whose docstring names it" in found[-4]
    assert "has the line 'no such line' 0 times" in found[-3]
    assert "with the fault is no Python" in found[-2] and "gone.py" in found[-1]


def test_numbers_in_docstrings():
    text = "PITFALLS 27. 7 + 6 words.\n\nPITFALLS 2, 18 and 3: of 5 ranks; PITFALLS 20, with workers that stay"
    assert check.trap_numbers(text) == [2, 3, 18, 20, 27]
    assert check.trap_numbers("7 pitfalls") == []


def test_only_the_words_that_differ_are_shown():
    found = check.difference("    a = b + c * d / e - f if x else y", "    a = b + c * d - f if x else y")
    assert found == ("... * d / e - f ...", "... * d - f ...")
    assert check.difference("    a = 1", "") == ("a = 1", "")


PASSING = "def test_a():\n    pass\n"
RUNS = {
    "a failing assertion": ("import vtlm_fairseq\n\ndef test_a():\n    assert vtlm_fairseq.VALUE == 1\n", True),
    "an error in the test": ("import vtlm_fairseq\n\ndef test_a():\n    assert 1 / (vtlm_fairseq.VALUE - 2)\n", True),
    "a test that passes": (PASSING, False),
    "a test that is skipped": ("import pytest\n\n@pytest.mark.skip\ndef test_a():\n    pass\n", False),
    "an import in the test": ("def test_a():\n    from vtlm_fairseq import nothing\n", False),
    "collection": ("from vtlm_fairseq import nothing\n\n" + PASSING, False),
    "a fixture": ("import pytest\n\n@pytest.fixture\ndef x():\n    assert 0\n\ndef test_a(x):\n    pass\n", False),
}


@pytest.fixture(scope="module")
def runner(tmp_path_factory):
    runner = check.Runner(tmp_path_factory.mktemp("checkout"), modules=("pytest",))
    yield runner
    runner.close()


@pytest.fixture
def run(runner):
    """A checkout whose package holds a value, 2."""
    for name, text in {"vtlm_fairseq/__init__.py": "VALUE = 2\n", "test_x.py": PASSING}.items():
        (runner.copy / name).parent.mkdir(exist_ok=True)
        (runner.copy / name).write_text(text)
    return runner


@pytest.mark.parametrize("kind", list(RUNS))
def test_a_fault_is_seen_by_a_test_that_fails_while_it_runs(run, kind):
    text, seen = RUNS[kind]
    (run.copy / "test_x.py").write_text(text)
    outcome = run(["test_x.py::test_a"])
    assert (outcome.seen() is not None) == seen, outcome


@pytest.mark.slow
def test_a_package_that_cannot_be_imported_or_is_another_one_is_no_fault_seen(run):
    assert run(["test_x.py"]).passed == 1
    (run.copy / "vtlm_fairseq/__init__.py").write_text("1 / 0\n")
    broken = run(["test_x.py"])
    assert broken.status == 90 and broken.seen() is None and "ZeroDivisionError" in str(broken)
    (run.copy / "vtlm_fairseq/__init__.py").unlink()
    other = run(["test_x.py"])  # the installed package, or none
    assert other.status == 90 and other.seen() is None
    (run.copy / "vtlm_fairseq/__init__.py").write_text("import time\n\ntime.sleep(30)\n")
    assert run(["test_x.py"], timeout=1).status == -14


def test_the_file_is_whole_again_after_its_fault(run, capsys):
    (run.copy / "test_x.py").write_text(RUNS["a failing assertion"][0].replace("== 1", "== 2"))
    fault = check.Fault(
        1, "a value", "it is 3", "test_x.py::test_a", "vtlm_fairseq/__init__.py", "VALUE = 2", "VALUE = 3"
    )
    assert check.check_fault(run, fault)
    assert "[it is 3] fails: assert 3 == 2" in capsys.readouterr().out
    assert (run.copy / "vtlm_fairseq/__init__.py").read_text() == "VALUE = 2\n"
    assert not check.check_fault(run, dataclasses.replace(fault, after="VALUE = 2"))
    assert "NOT SEEN" in capsys.readouterr().out
