"""What the stages of the examples share: fairseq's commands, their environment, progress and mending of checkpoints."""

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

from vtlm_fairseq.cli import convert
from vtlm_fairseq.files import copy_file

ROOT = Path(__file__).resolve().parents[1]
USER_DIR = str(ROOT / "vtlm_fairseq")


def environment(**variables: str) -> dict[str, str]:
    """Of the commands: the checkout's package first, UTF-8, output at once, and what is given."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **variables}


def fairseq(command: str) -> tuple[str, ...]:
    """``fairseq-preprocess`` and so on, run by this interpreter; -P: not with modules of the output folder."""
    return ("-P", "-m", f"fairseq_cli.{command}", "--user-dir", USER_DIR)


def mend_last_checkpoint(folder: Path) -> None:
    """Make ``checkpoint_last.pt`` the newest whole checkpoint, or remove it where there is none.

    fairseq writes it as a copy in place: a kill at that moment leaves a part of it.
    """
    last, answer = folder / "checkpoint_last.pt", io.StringIO()
    try:
        with contextlib.redirect_stdout(answer), contextlib.redirect_stderr(io.StringIO()):
            convert.main(["latest", str(folder)])
    except SystemExit as end:
        if isinstance(end.code, int):  # ended by a signal, which says nothing of the folder
            raise
        last.unlink(missing_ok=True)
        return
    newest = Path(answer.getvalue().rstrip("\n"))
    if newest != last:
        copy_file(newest, last)


def update_progress(last: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-train --log-format json`` towards update ``last``."""
    pattern = re.compile(r'"num_updates": "(\d+)"')

    def progress(line: str) -> float | None:
        found = pattern.search(line)
        return int(found[1]) / last if found else None

    return progress


def hypothesis_progress(total: int) -> Callable[[str], float | None]:
    """Progress of ``fairseq-generate`` through ``total`` sentences."""
    seen = 0

    def progress(line: str) -> float | None:
        nonlocal seen
        if not line.startswith("H-"):
            return None
        seen += 1
        return seen / total

    return progress
