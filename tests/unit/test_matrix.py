"""``tests/matrix.sh``: what it reports of a row, what it keeps, and that what was not tested is never called passed."""

import stat
import sys
from types import SimpleNamespace

import matrix
import pytest
from matrix import ROWS, NotBuilt, counts, document, find_python, oldest, run_row

PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
VERSIONS = dict.fromkeys(("python", *matrix.SHOWN), "1.2.3")


@pytest.fixture
def tests(monkeypatch):
    """Stand-ins for pip and the tests: the list of rows that ran; `code` is what the code's fingerprint is."""
    ran = []

    def run_tests(row, python, folder, *, fast):
        ran.append(f"{row.name} {'unit' if fast else 'all'}")
        return {"passed": 7, "failed": 0, "skipped": 2, "reasons": {}, "versions": VERSIONS, "machine": "one"}

    monkeypatch.setattr(matrix, "install", lambda row, folder: folder / "venv/bin/python")
    monkeypatch.setattr(matrix, "run_tests", run_tests)
    monkeypatch.setattr(matrix, "code_fingerprint", lambda: "first")
    return ran


def shim(folder, name, text):
    """An executable script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_finished_rows_are_kept(tests, tmp_path, monkeypatch):
    """Until the code changes, if nothing failed; all tests count for the unit tests, not the other way round."""
    row = ROWS["py3.11-pins"]
    for fast in (True, True, False, True, False):
        run_row(row, tmp_path, fast=fast)
    assert tests == ["py3.11-pins unit", "py3.11-pins all"]
    monkeypatch.setattr(matrix, "code_fingerprint", lambda: "second")
    run_row(row, tmp_path, fast=True)
    assert tests[2:] == ["py3.11-pins unit"]


def test_a_row_that_was_stopped_runs_again(tests, tmp_path, monkeypatch):
    """And one that was not built is tried again."""
    monkeypatch.setattr(matrix, "run_tests", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_row(ROWS["py3.11-pins"], tmp_path, fast=True)
    assert matrix.read_result(tmp_path / "py3.11-pins") is None

    def no_python(row, folder):
        raise NotBuilt("no CPython 3.11")

    monkeypatch.setattr(matrix, "install", no_python)
    for _ in range(2):
        assert run_row(ROWS["py3.11-pins"], tmp_path, fast=True)["not built"] == "no CPython 3.11"


def test_what_was_not_built_is_not_passed(tests, tmp_path):
    """It stands in the document with its reason and without a number."""
    built = run_row(ROWS["py3.11-pins"], tmp_path, fast=False)
    missing = {"row": "py3.12-pins", "date": "2026-01-01", "tests": "all", "not built": "no wheel | for h5py"}
    lines = document([built, missing]).splitlines()
    header, rule, first, second = lines[lines.index(next(line for line in lines if line.startswith("| row"))) :][:4]
    assert len(set(map(lambda line: line.replace("\\|", "").count("|"), (header, rule, first, second)))) == 1
    assert "| all | 7 | 0 | 2 |" in first
    assert second.startswith("| py3.12-pins | not built: no wheel \\| for h5py | |")
    assert "Machine of py3.11-pins: one." in lines


def test_counts_of_a_report(tmp_path):
    """Errors of fixtures count as failed; skipped tests are no passed ones."""
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3" time="61.7">'
        '<testcase><skipped message="no GPU"/></testcase><testcase><skipped message="no GPU"/></testcase>'
        '<testcase><skipped message="no data"/></testcase></testsuite></testsuites>',
        encoding="utf-8",
    )
    assert counts(tmp_path / "tests.xml") == {
        "passed": 3, "failed": 3, "skipped": 3, "reasons": {"no GPU": 2, "no data": 1}, "seconds": 62,
    }  # fmt: skip


def test_a_failed_test_is_the_status_of_the_command(tests, tmp_path, monkeypatch, capsys):
    """And an unknown row ends with one that says which there are."""
    monkeypatch.setattr(matrix, "DOCUMENT", tmp_path / "compatibility.md")
    monkeypatch.setattr(sys, "argv", ["matrix.sh", "--rows", "py3.11-pins", "--out", str(tmp_path)])
    assert matrix.main() == 0
    found = {**matrix.read_result(tmp_path / "py3.11-pins"), "failed": 1}
    monkeypatch.setattr(matrix, "run_tests", lambda *args, **kwargs: found)
    monkeypatch.setattr(matrix, "code_fingerprint", lambda: "second")
    assert [matrix.main(), matrix.main()] == [1, 1]
    assert "| 7 | 1 | 2 |" in (tmp_path / "compatibility.md").read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["matrix.sh", "--rows", "py3.9-pins"])
    with pytest.raises(SystemExit):
        matrix.main()
    assert "'py3.9-pins' is none of py3.11-pins, " in capsys.readouterr().err


def test_interpreters(tmp_path, monkeypatch):
    """A shim that names no installed version is passed over; pyenv is asked for its newest that fits."""
    shim(tmp_path / "bin", f"python{PYTHON}", "echo not installed >&2; exit 127")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setattr(matrix.shutil, "which", lambda name: None)
    with pytest.raises(NotBuilt, match=f"no CPython {PYTHON}"):
        find_python(PYTHON)
    shim(tmp_path / "bin", "python3.99", f'exec "{sys.executable}" "$@"')  # a name does not count
    with pytest.raises(NotBuilt):
        find_python("3.99")

    shim(tmp_path / "bin", "pyenv",
         f"[ $1 = versions ] && echo {PYTHON}.9 {PYTHON}.10 3.2.1 || echo {tmp_path}/prefix/$2")  # fmt: skip
    monkeypatch.setattr(matrix.shutil, "which", lambda name: str(tmp_path / "bin" / name))
    for version in (f"{PYTHON}.9", f"{PYTHON}.10"):
        (tmp_path / "prefix" / version).mkdir(parents=True)
        shim(tmp_path / "prefix" / version / "bin", "python", f"echo {PYTHON}")
    assert find_python(PYTHON) == f"{tmp_path}/prefix/{PYTHON}.10/bin/python"
    shim(tmp_path / "bin", f"python{PYTHON}", f'exec "{sys.executable}" "$@"')
    assert find_python(PYTHON) == f"python{PYTHON}"


def test_environments_are_made_once(tmp_path, monkeypatch):
    """Not again unless setup.cfg or the pins change, it is broken, or the newest libraries are asked for."""
    calls = []

    def run(command, **options):
        calls.append("venv" if "venv" in command else "pip")
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(matrix, "find_python", lambda version: "python")
    monkeypatch.setattr(matrix, "version_of", lambda python: "3.11")
    monkeypatch.setattr(matrix.subprocess, "run", run)
    monkeypatch.setattr(matrix, "ROOT", tmp_path)
    for name in ("setup.cfg", "constraints.txt"):
        (tmp_path / name).touch()

    def calls_of(row):
        (tmp_path / row).mkdir(exist_ok=True)
        calls.clear()
        assert matrix.install(ROWS[row], tmp_path / row) == tmp_path / row / "venv/bin/python"
        return list(calls)

    assert [calls_of("py3.11-pins") for _ in range(2)] == [["venv", "pip", "pip"], []]
    (tmp_path / "constraints.txt").write_text("torch==2.13.0", encoding="utf-8")
    assert calls_of("py3.11-pins") == ["venv", "pip", "pip"]
    assert [calls_of("py3.11-newest") for _ in range(2)] == [["venv", "pip", "pip"], ["pip", "pip"]]
    monkeypatch.setattr(matrix, "version_of", lambda python: None)
    assert calls_of("py3.11-pins") == ["venv", "pip", "pip"]


def test_oldest_versions_are_the_declared_ones():
    """Every requirement with a bound, none without."""
    found = oldest()
    assert {"torch==2.6", "numpy==2.0", "ve-fairseq==0.12.3", "sentencepiece==0.2"} <= set(found)
    assert not any(item.startswith("tqdm") for item in found)
