"""A runner of the examples, its commands in forked children of this process, which has fairseq imported.

EXAMPLE names it: ``results2`` or ``study``; by default it is ``table1``.
"""

import importlib
import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

from forks import fork, run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path[:0] = [str(EXAMPLES / "multi30k"), str(EXAMPLES / "masking_study")]

import stages  # noqa: E402

from vtlm_fairseq.interrupts import end_with_parent  # noqa: E402


def start(command, *, cwd, environment, log, lock):
    """What the runner asks of the process of a command."""
    module, *argv = command[command.index("-m") + 1 :] if "-m" in command[:2] else command
    request = {"module": module, "argv": argv, "cwd": str(cwd), "env": environment, "log": log.name, "stdin": None}

    def child() -> int:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        end_with_parent(signal.SIGTERM)
        logging.basicConfig(level=logging.INFO, force=True)  # this process shows warnings only
        return run({**request, "timeout": 300})

    pid = fork(child)
    return SimpleNamespace(wait=lambda: os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), poll=lambda: 0)


stages._start = start
importlib.import_module(os.environ.get("EXAMPLE", "table1")).main()
