"""Scripts in bash that fetch or install: what is missing ends them with one line that names it."""

import os
import subprocess
from pathlib import Path

import pytest

from harness import ROOT

PROGRAMS = ("sha256sum", "cut", "mkdir", "mktemp", "rm", "tar", "tail", "head", "cat", "cmp", "dirname", "gzip")


def bash(*command, **variables) -> tuple[int, str]:
    """Exit status and last line of a bash command with other variables."""
    done = subprocess.run(["/bin/bash", *map(str, command)], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", **variables}, timeout=60)  # fmt: skip
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Path:
    """A folder of the usual programs, without Python and npm, and a function that adds one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tools").mkdir()
    for name in PROGRAMS:
        (tmp_path / "tools" / name).symlink_to(
            next(p for p in map(Path, ("/usr/bin", "/bin")) if (p / name).exists()) / name
        )
    return tmp_path / "tools"


def program(path: Path, *lines: str) -> None:
    path.write_text("\n".join(("#!/bin/bash", *lines, "")))
    path.chmod(0o755)


def test_fetching_the_ssd(tools):
    script = ROOT / "preprocess" / "fetch_ssd.sh"
    assert bash(script, PATH=tools) == (2, f"usage: {script} FOLDER")
    other = ("mkdir package", "echo text > package/objectron_solution_packed_assets.data", "tar -czf x.tgz package")
    for npm, words in ((None, "npm"), (("exit 1",), "@mediapipe/objectron@"), (other, "checksum")):
        if npm:
            program(tools / "npm", *npm)
        status, line = bash(script, "ssd", PATH=tools)
        assert status == 1 and line.startswith("error: ") and words in line
    assert os.listdir("ssd") == []


def test_environments_that_cannot_be_made(tools):
    Path("checkout/scripts").mkdir(parents=True)
    Path("checkout/scripts/venv.sh").write_bytes((ROOT / "scripts/venv.sh").read_bytes())
    for name in ("setup.cfg", "constraints.txt"):
        Path("checkout", name).touch()
    for words in ("Python 3.11 or 3.12", "checkout/.venv"):
        status, line = bash("-c", "source checkout/scripts/venv.sh; vtlm_activate_venv test", PATH=tools)
        assert status == 1 and line.startswith("error: ") and words in line
        program(tools / "python3.11", '[ "$1" = -c ]')
