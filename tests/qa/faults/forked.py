"""The commands of :class:`harness.CommandLines` as forked children of this process, which can be killed."""

import contextlib
import importlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cli_server

from harness import CommandLines, Result


@dataclass
class Running:
    """A command under way, in a process group of its own."""

    pid: int
    log: Path
    status: int | None = None

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most until it has computed so long; whether it has ended.

        The clock is the processor time of its main thread: a busy machine does not move the moment.
        """
        while self.status is None:
            pid, status = os.waitpid(self.pid, 0 if seconds is None else os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif self.computed() >= seconds:
                return False
            else:
                time.sleep(0.001)
        return True

    def computed(self) -> float:
        """Seconds of processor time of its main thread (Linux)."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def kill(self) -> None:
        """SIGKILL to the whole process group, workers of data loaders included."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def result(self) -> Result:
        """Status and output so far."""
        return Result(self.status, self.log.read_text(encoding="utf-8", errors="replace"))


class ForkedCommands(CommandLines):
    """Runs commands one by one in forks of this process, which imports fairseq once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.count = 0
        for name in cli_server.MODULES:
            importlib.import_module(name)

    def start(self, module: str, *argv, **options) -> Running:
        """Begin a command; arguments as of a call."""
        request = self._request(module, argv, **options)
        pid = cli_server.start(request)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        return Running(pid, Path(request["log"]))

    def together(self, commands: Sequence[tuple[str, Sequence]], *, ok: bool | None = True, **options) -> list[Result]:
        """Run commands one after the other, each to its end."""
        results = []
        for module, argv in commands:
            running = self.start(module, *argv, **options)
            running.wait()
            result = running.result
            assert ok is None or (result.status == 0) == ok, (
                f"{module} {' '.join(map(str, argv))} ended with {result.status}:\n{result.output[-6000:]}"
            )
            results.append(result)
        return results

    def close(self) -> None:
        """Nothing is left to end."""
