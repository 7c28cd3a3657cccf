"""The how-tos of docs/dev/howtos.md, followed to the letter in a copy of the checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import ROOT

PAGE = (ROOT / "docs" / "dev" / "howtos.md").read_text(encoding="utf-8")
HOWTOS = ("detector", "probe", "arch")
STEP = re.compile(r"(?:<!-- (?P<what>new file|change): (?P<path>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.S)


def steps(name: str) -> list[re.Match]:
    """The code blocks of a how-to."""
    (section,) = re.findall(rf"^## How to add an? {name}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    return list(STEP.finditer(section))


def change(path: Path, diff: str) -> None:
    """Replace lines: each ``-`` line, which must be there once, by the ``+`` lines below it."""
    text = path.read_text(encoding="utf-8")
    for old, new in re.findall(r"^-(.*)\n((?:\+.*\n?)+)", diff, re.M):
        assert text.splitlines().count(old) == 1, f"{path}: the how-to changes a line that is not there: {old}"
        text = text.replace(old, re.sub(r"^\+", "", new, flags=re.M).rstrip("\n"))
    path.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> tuple[Path, list[str]]:
    """A copy of the checkout with what the how-tos add, and the commands that they name."""
    copy = tmp_path_factory.mktemp("howtos") / "checkout"
    for folder in ("vtlm_fairseq", "preprocess", "tests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    commands = []
    for name in HOWTOS:
        done = []
        for step in steps(name):
            done.append(step["what"] or step["kind"])
            if step["what"] == "new file":
                path = copy / step["path"]
                assert not path.exists(), f"{path} is there already"
                path.write_text(step["text"], encoding="utf-8")
            elif step["what"] == "change":
                change(copy / step["path"], step["text"])
            else:
                commands += [part for line in step["text"].splitlines() for part in line.split(" && ")]
        assert done == ["new file", "change", "new file", "bash"]
    return copy, commands


def run(copy: Path, *command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment.update(PYTHONPATH=str(copy), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", *command], cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-5000:]}\n{done.stderr[-2000:]}"


def test_what_the_howtos_add_has_the_checkouts_style(followed):
    copy, commands = followed
    pytest.importorskip("ruff", reason="ruff is not installed")
    checks = [command.split() for command in commands if command.startswith("ruff ")]
    assert len(checks) == 2 * len(HOWTOS)
    for check in checks:
        run(copy, *check)


def test_the_tests_of_the_howtos_pass(followed):
    """In one process, which saves fairseq's start-up."""
    copy, commands = followed
    start = "python -m pytest "
    files = [command.removeprefix(start).split() for command in commands if command.startswith(start)]
    assert len(files) == len(HOWTOS)
    run(copy, "pytest", "-q", "-p", "no:cacheprovider", *sum(files, []))
