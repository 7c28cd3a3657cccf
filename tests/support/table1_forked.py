"""examples/multi30k/table1.py, its commands in forked children of this process, which has fairseq imported."""

import os
import sys
from pathlib import Path

from forks import fork, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "multi30k"))

import stages  # noqa: E402
import table1  # noqa: E402


class Forked:
    """What the runner asks of the process of a command."""

    def __init__(self, command, *, cwd, environment, log, lock):
        module, *argv = command[command.index("-m") + 1 :] if "-m" in command[:2] else command
        request = {"module": module, "argv": argv, "cwd": str(cwd), "env": environment, "log": log.name, "stdin": None}
        self.pid = fork(lambda: run({**request, "timeout": 300}))
        self.status = None

    def wait(self) -> int:
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def poll(self) -> int | None:
        return self.status


stages._start = Forked
table1.main()
