"""noxfile.py: its sessions, and what it writes of them."""

import json
import subprocess
import sys

import pytest

from harness import ROOT
from vtlm_fairseq import stack

pytest.importorskip("nox", reason="nox is not installed")
import noxfile  # noqa: E402


def test_sessions_are_listed_without_torch():
    """Each Python that is supported with each choice of libraries."""
    code = "import sys; sys.modules['torch'] = None; from nox.__main__ import main; main()"
    argv = [sys.executable, "-c", code, "--list", "--json", "-s", "tests", "matrix", "lint"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, check=True)
    names = [session["session"] for session in json.loads(listed.stdout)]
    (oldest, beyond) = stack.PYTHON
    stacks = [f"tests-3.{n}({libraries})" for n in range(oldest[1], beyond[1]) for libraries in noxfile.STACKS]
    assert len(stacks) == 6 and names == [*stacks, "matrix", "lint"]


def test_the_oldest_libraries_are_the_declared_ones():
    """What the package checks at its import, and no requirement without a bound."""
    checked = {f"{name}=={lowest}" for name, lowest, _ in stack.LIBRARIES.values()}
    assert checked | {"torch==2.6", "sentencepiece==0.2"} <= set(noxfile.STACKS["oldest"])
    assert not any(item.startswith("tqdm") for item in noxfile.STACKS["oldest"])


def test_a_row_takes_the_place_of_its_own(monkeypatch, tmp_path):
    """Errors of fixtures count as failed."""
    report, page = tmp_path / "tests.xml", tmp_path / "page.md"
    report.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>')
    assert noxfile.counts(report) == (3, 3, 3)
    before = noxfile.PAGE.read_text(encoding="utf-8")
    page.write_text(before, encoding="utf-8")
    monkeypatch.setattr(noxfile, "PAGE", page)
    noxfile.record("3.12", "oldest", "7")
    (row,) = set(before.splitlines()) - set(after := page.read_text(encoding="utf-8").splitlines())
    assert row.startswith("| 3.12 | oldest | 3.12") and after[before.splitlines().index(row)] == "| 3.12 | oldest | 7 |"
