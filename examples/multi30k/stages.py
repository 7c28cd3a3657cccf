"""Run a list of commands as stages: one screen line each, a log each, and a second call goes on where one stopped.

A stage is finished when its stamp exists and holds the fingerprint of its command and of the stages it needs.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from vtlm_fairseq.cli import convert
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import copy_file, write_text
from vtlm_fairseq.interrupts import end_with_parent, interrupts

TAIL = 20
"""How many lines of a log are shown when its stage fails."""


ROOT = Path(__file__).resolve().parents[2]
USER_DIR = str(ROOT / "vtlm_fairseq")


def environment() -> dict[str, str]:
    """Of the commands: the checkout's package first, UTF-8, output at once."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PYTHONPATH": path}


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


@dataclass(frozen=True)
class Stage:
    """One command.

    Attributes:
        name: names its stamp and its log.
        title: what the screen calls it.
        command: arguments of the interpreter; run in the output folder.
        outputs: files and folders it makes, relative to the output folder. They are removed before it starts.
        needs: names of the stages whose outputs it reads.
        finish: run after the command; what it raises fails the stage.
        recover: makes what an unfinished run of the same command left fit to go on from; None: it starts anew.
        inputs: files whose content belongs to the fingerprint.
        facts: what else belongs to it.
    """

    name: str
    title: str
    command: tuple[str, ...]
    outputs: tuple[str, ...]
    needs: tuple[str, ...] = ()
    finish: Callable[[], None] = lambda: None
    recover: Callable[[], None] | None = None
    inputs: tuple[Path, ...] = ()
    facts: tuple[str, ...] = ()


def _clock(seconds: float) -> str:
    return f"{int(seconds + 0.5) // 60}:{int(seconds + 0.5) % 60:02d}"


def write_atomically(path: Path, text: str) -> None:
    """Write a text file that appears only when it is complete; an unchanged file is left alone."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    write_text(path, text, parents=True)


def prepare_folder(out: Path) -> None:
    """Make the output folder. One that holds anything else is refused, since stages remove old outputs.

    Raises:
        VTLMError: it holds files of something else, or cannot be made.
    """
    stamps = out / "stamps"
    try:
        if out.exists() and not stamps.is_dir() and any(out.iterdir()):
            raise VTLMError(f"--out {out} holds files of something else; name a new or an empty folder")
        stamps.mkdir(parents=True, exist_ok=True)
        (out / "logs").mkdir(exist_ok=True)
    except OSError as error:
        raise VTLMError(f"--out {out}: cannot be used ({error.strerror}); name another folder") from None


def _start(
    command: Sequence[str], *, cwd: Path, environment: dict[str, str], log: BinaryIO, lock: int
) -> subprocess.Popen:
    """Start a command of this interpreter in ``cwd``; it keeps the lock's file descriptor, and ends with the runner."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,),
        preexec_fn=partial(end_with_parent, signal.SIGTERM),
    )


def _seconds_before(started: Path, log: Path, fingerprint: str) -> float | None:
    """Seconds that unfinished runs of the same command took, to the last line of their log; None if there is none."""
    try:
        begun = json.loads(started.read_text(encoding="utf-8"))
        last = log.stat().st_mtime
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return begun["seconds"] + max(0.0, last - begun["time"]) if begun["fingerprint"] == fingerprint else None


class Runner:
    """Runs stages in order in the folder ``out``.

    Args:
        out: the output folder; stamps go to ``out/stamps``, logs to ``out/logs``.
        stages: in an order in which each comes after those that it needs.
        root: a folder whose place does not matter: its path is left out of the fingerprints.
        environment: of the commands.
        screen: where to say what happens, a line a stage.
        record: called with each stage that has ended well and its seconds, before it counts as finished.
    """

    def __init__(
        self,
        out: Path,
        stages: Sequence[Stage],
        *,
        root: Path,
        environment: dict[str, str],
        screen: TextIO,
        record: Callable[[Stage, float], None] = lambda stage, seconds: None,
    ) -> None:
        self.out = out
        self.stages = list(stages)
        self._root = str(root)
        self._environment = environment
        self._screen = screen
        self._record = record
        self._fingerprints: dict[str, str] = {}
        for stage in self.stages:
            self._fingerprints[stage.name] = self._fingerprint(stage)

    def run(self) -> dict[str, float]:
        """Run what is not finished and return the seconds of each stage, those of runs that were cut off included.

        Raises:
            VTLMError: a stage failed, after the end of its log was shown, or ``out`` is in use or not ours.
            KeyboardInterrupt: a signal came (`vtlm_fairseq.interrupts`), after the running command was ended.
        """
        prepare_folder(self.out)
        seconds = {}
        width = max([24, *(len(stage.title) for stage in self.stages)])
        with self._locked() as lock, interrupts():
            for number, stage in enumerate(self.stages, start=1):
                stamp = self._stamp(stage)
                print(f"{number}/{len(self.stages)}  {stage.title:<{width}}  ", end="", file=self._screen, flush=True)
                seconds[stage.name] = self._run_stage(stage, lock=lock) if stamp is None else stamp
                self._say("done before" if stamp is not None else f"done in {_clock(seconds[stage.name])}")
        return seconds

    def _say(self, text: str) -> None:
        print(text, file=self._screen, flush=True)

    def finished(self) -> set[str]:
        """Names of the stages that are finished."""
        return {stage.name for stage in self.stages if self._stamp(stage) is not None}

    def _fingerprint(self, stage: Stage) -> str:
        facts = [
            [part.replace(self._root, "") for part in stage.command],
            [hashlib.sha256(path.read_bytes()).hexdigest() for path in stage.inputs],
            [self._fingerprints[name] for name in stage.needs],
            *stage.facts,
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _stamp(self, stage: Stage) -> float | None:
        """The seconds that a finished stage took; None if it is not finished."""
        try:
            stamp = json.loads((self.out / "stamps" / f"{stage.name}.json").read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        same = stamp["fingerprint"] == self._fingerprints[stage.name]
        return stamp["seconds"] if same and all((self.out / name).exists() for name in stage.outputs) else None

    def _run_stage(self, stage: Stage, *, lock: int) -> float:
        fingerprint = self._fingerprints[stage.name]
        stamp = self.out / "stamps" / f"{stage.name}.json"
        started = self.out / "stamps" / f"{stage.name}.started"
        log = self.out / "logs" / f"{stage.name}.log"
        stamp.unlink(missing_ok=True)
        before = _seconds_before(started, log, fingerprint) if stage.recover else None
        if before is not None:
            stage.recover()
        else:
            for name in stage.outputs:
                _remove(self.out / name)
            log.unlink(missing_ok=True)
        begun = {"fingerprint": fingerprint, "seconds": before or 0.0, "time": time.time()}
        write_atomically(started, json.dumps(begun))
        start = time.monotonic()
        status = self._run_command(stage, log, lock=lock)
        if status == 0:
            try:
                stage.finish()
            except (OSError, VTLMError) as error:
                self._say("failed")
                raise VTLMError(f"{stage.title}: {error}") from None
        else:
            self._say("failed")
            for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]:
                self._say(f"    {line}")
            raise VTLMError(
                f"stage {stage.title!r} ended with exit status {status}; above are the last lines of {log}; "
                "the same command tries it again"
            )
        seconds = round((before or 0.0) + time.monotonic() - start, 1)
        self._record(stage, seconds)
        write_atomically(stamp, json.dumps({"fingerprint": fingerprint, "seconds": seconds}))
        started.unlink()
        return seconds

    def _run_command(self, stage: Stage, log: Path, *, lock: int) -> int:
        """Run the command with its output in ``log``; return its exit status."""
        with log.open("ab") as sink:
            process = _start(stage.command, cwd=self.out, environment=self._environment, log=sink, lock=lock)
            try:
                return process.wait()
            finally:
                _end(process)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the lock of the output folder; the commands inherit it."""
        with (self.out / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise VTLMError(
                    f"{self.out}: another run is at work there; wait for it or choose another --out"
                ) from None
            yield file.fileno()


def _end(process: subprocess.Popen) -> None:
    """End a command that still runs: first politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
