"""The quickstart's data and trainings, to measure on: what ``examples/quickstart/run.sh --show`` prints is run here."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Of the commands: this interpreter and this package first, one thread, output at once."""
    paths = {"PATH": str(Path(sys.executable).parent), "PYTHONPATH": str(ROOT)}
    before = {name: os.environ[name] for name in paths if os.environ.get(name)}
    return {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1",
            **{name: os.pathsep.join([path, *before.get(name, "").split(os.pathsep)]).rstrip(os.pathsep)
               for name, path in paths.items()}}  # fmt: skip


def commands(*options: str) -> dict[str, list[str]]:
    """The commands by what they make (``data``, ``data-bin``, ``vtlm``, ``mmt``, ``nmt``), relative to their folder."""
    script = ROOT / "examples" / "quickstart" / "run.sh"
    done = subprocess.run(
        ["bash", script, "--show", *options], env=environment(), stdout=subprocess.PIPE, text=True, check=True
    )
    found = {}
    for line in done.stdout.splitlines():
        command = shlex.split(line)
        for option in ("--out", "--destdir", "--save-dir"):
            if option in command:
                found[command[command.index(option) + 1]] = command
    return found


def prepare(folder: Path, *options: str) -> None:
    """Make ``data`` and ``data-bin`` in a folder, unless they are there."""
    if (folder / "data-bin" / "train.images").exists():
        return
    shutil.rmtree(folder / "data", ignore_errors=True)
    made = commands(*options)
    for name in ("data", "data-bin"):
        subprocess.run(made[name], cwd=folder, env=environment(), stdout=subprocess.DEVNULL, check=True)
    for split in ("valid", "train"):
        shutil.copy(folder / "data" / f"{split}.images", folder / "data-bin")
