"""Start the stages' commands as forked children of a process that has imported fairseq, which saves their start-up."""

import importlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from stages import die_with_parent

# torch imports _dynamo, for three seconds, with the first optimizer
MODULES = ("torch._dynamo", "fairseq_cli.train", "fairseq_cli.generate", "vtlm_fairseq", "vtlm_fairseq.cli.convert")


def import_modules() -> None:
    """Import what the commands would; nothing is computed here, so that the children may start threads."""
    for name in MODULES:
        importlib.import_module(name)


class Fork:
    """A forked command, with what `stages.Runner` needs of a subprocess.Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._status: int | None = None

    def poll(self) -> int | None:
        """Exit status, None while it runs; minus the number of the signal that ended it."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(0.02)
        return status

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def start_fork(command: Sequence[str], *, cwd: Path, environment: dict[str, str], log: BinaryIO, lock: int) -> Fork:
    """As `stages.start_process`, in a forked child. ``command`` is ``[-P] -m MODULE ...`` or ``SCRIPT ...``."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Fork(pid)
    status = 1
    try:
        status = _child(command, cwd=cwd, environment=environment, log=log)
    finally:
        os._exit(status)


def _child(command: Sequence[str], *, cwd: Path, environment: dict[str, str], log: BinaryIO) -> int:
    """Run the command in this process; returns the exit status that a shell would see."""
    die_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log.fileno(), 1), (log.fileno(), 2)):
        os.dup2(source, target)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    # what fairseq's commands set up when they are imported, unless it is set up already
    form, date = "%(asctime)s | %(levelname)s | %(name)s | %(message)s", "%Y-%m-%d %H:%M:%S"
    logging.basicConfig(format=form, datefmt=date, level=logging.INFO, stream=sys.stdout, force=True)
    try:
        if threads := environment.get("OMP_NUM_THREADS"):
            import torch

            torch.set_num_threads(int(threads))
        _run([part for part in command if part != "-P"])
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _run(command: Sequence[str]) -> None:
    if command[0] != "-m":
        sys.argv = list(command)
        sys.path.insert(0, os.path.dirname(command[0]))
        runpy.run_path(command[0], run_name="__main__")
        return
    sys.argv = list(command[1:])
    module = importlib.import_module(command[1])
    raise SystemExit((module.cli_main if hasattr(module, "cli_main") else module.main)())
