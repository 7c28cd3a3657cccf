"""SIGTERM and SIGHUP end a command as Ctrl-C does: temporary files go, finished parts stay, children end."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_KEPT_BYTES = 64 << 20
_active = False


class Interrupted(KeyboardInterrupt):
    """A signal that asks the process to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def take_signals(handler: Callable, numbers: Sequence[int] = SIGNALS) -> dict[int, object]:
    """Handle signals, but those that are ignored (``nohup``). To be called in the main thread.

    Returns:
        The handlers that they had, for `give_back_signals`.
    """
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: was for number, was in before.items() if was not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    return before


def give_back_signals(before: Mapping[int, object]) -> None:
    """Undo `take_signals`."""
    for number, was in before.items():
        signal.signal(number, was)


@contextmanager
def interrupts() -> Iterator[None]:
    """Raise `Interrupted` where SIGTERM, SIGHUP or SIGINT comes; a second one ends the process at once.

    Signals that are ignored (``nohup``) stay so. Without effect outside the main thread, where Python handles none.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def interrupt(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if os.getpid() != owner:  # a child that was forked meanwhile
            os.kill(os.getpid(), number)
            return
        raise Interrupted(number)

    before = take_signals(interrupt)
    try:
        yield
    finally:
        give_back_signals(before)


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """For the `main` of a command: SIGTERM, SIGHUP and SIGINT end it with one line and status 128 + number.

    Blocks that are left remove their temporary files; children of multiprocessing are ended. Within another such block
    it leaves everything to that.
    """
    global _active
    if _active:
        yield
        return
    _active = True
    try:
        with interrupts():
            yield
    except KeyboardInterrupt as error:
        number = signal.Signals(getattr(error, "number", signal.SIGINT))
        end_children()
        sys.stdout.flush()
        print(f"error: ended by {number.name}", file=sys.stderr)
        raise SystemExit(128 + number) from None
    finally:
        _active = False


def end_children() -> None:
    """End the children of multiprocessing: pools, loaders' workers."""
    children = multiprocessing.active_children()
    for child in children:
        child.kill()
    for child in children:
        child.join(5)


def start_worker() -> None:
    """In a pool's worker: signals are the parent's affair, and with it the worker ends, however that ends (Linux)."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()


def end_with_parent(number: int = signal.SIGKILL) -> None:
    """In a child: ask Linux to send this signal when the parent ends, so that none works on unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # 1: PR_SET_PDEATHSIG


def keep_memory() -> None:
    """In a process that makes and drops arrays of megabytes again and again: what is free stays its own (glibc).

    Otherwise each array is given back and asked for anew, and the system clears each page of it each time.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(-1, _KEPT_BYTES)  # M_TRIM_THRESHOLD
        library.mallopt(-3, _KEPT_BYTES // 2)  # M_MMAP_THRESHOLD


def run_group(command: Sequence[str], *, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in a process group of its own, which is ended whole where this process is interrupted.

    Returns:
        Its exit status, and what it printed.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        start_new_session=True,
        preexec_fn=end_with_parent,
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output
