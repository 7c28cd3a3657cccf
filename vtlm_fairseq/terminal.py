"""What commands write to a terminal: text of strangers with its control characters shown, and streams that are closed.

An id, a class name or a string of a checkpoint may hold escapes that move the cursor, rename the window or turn the
direction of writing. They are shown as ``\\x1b`` and the like wherever a line is made for people.
"""

import logging
import os
import re
import select
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

from tqdm import tqdm

from vtlm_fairseq.errors import VTLMError, exit_on_error, printable
from vtlm_fairseq.interrupts import exit_on_signal

BROKEN_PIPE = 141
"""Exit status where the reader has gone, as of a command that SIGPIPE ends."""
_LOG_SECONDS = 60.0


def printable_lines(text: str) -> str:
    """As :func:`printable`, but for line ends and tabs."""
    return re.sub(r"[^\n\t]+", lambda found: printable(found[0]), text)


def say(text: str = "", *, file=None) -> None:
    """Print lines for people."""
    print(printable_lines(text), file=file, flush=True)


def write_out(text: str) -> None:
    """Print lines that another program may read: as they are, unless they go to a terminal."""
    print(printable_lines(text) if sys.stdout.isatty() else text)


def progress_bar(*items: Iterable, **options) -> tqdm:
    """A bar of tqdm's: on a terminal drawn at each look, elsewhere a line a minute, the first after one (``delay``)."""
    if not sys.stderr.isatty():
        pace = dict.fromkeys(("mininterval", "maxinterval", "delay"), _LOG_SECONDS)
        options = {**pace, "file": _Lines(sys.stderr), **options}
    return tqdm(*items, **options)


class _Lines:
    """Each state of a bar as a line of its own: nothing is drawn over where there is no terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self.encoding = stream, getattr(stream, "encoding", "utf-8")

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            self._stream.write(f"{text}\n")

    def flush(self) -> None:
        self._stream.flush()


def get_logger(name: str) -> logging.Logger:
    """The logger of a module; control characters in its messages are shown."""
    logger = logging.getLogger(name)
    if not any(isinstance(found, _Printable) for found in logger.filters):
        logger.addFilter(_Printable())
    return logger


class _Printable(logging.Filter):
    """Makes the message of each record printable."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never refuses one."""
        record.msg, record.args = printable_lines(record.getMessage()), None
        return True


@contextmanager
def command_line() -> Iterator[None]:
    """Around the ``main`` of a command: as :func:`exit_on_error`, and without a stack where a stream is closed.

    A reader that has gone (``| head -1``) ends the command quietly with `BROKEN_PIPE`, one that was never there
    (``>&-``) with one line. Signals end it as :func:`exit_on_signal` says. Of logs, warnings are shown.
    """
    logging.getLogger().setLevel(logging.WARNING)  # fairseq reports its configuration at INFO
    warnings.filterwarnings("ignore", "'pin_memory' argument is set", UserWarning)  # fairseq sets it without a GPU, too
    saved = logging.raiseExceptions
    logging.raiseExceptions = False  # a handler that cannot write would print a stack for each record
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    try:
        with exit_on_signal(), exit_on_error():
            if sys.stdout is None:
                raise VTLMError("standard output is closed; send it to a file, or to /dev/null")
            yield
            sys.stdout.flush()
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _silence_broken():
            raise SystemExit(BROKEN_PIPE) from None
        if _can_be_written(sys.stdout):
            raise
        _silence(sys.stdout)
        raise SystemExit(f"error: standard output: cannot be written ({error.strerror}); send it to a file") from None
    except UnicodeEncodeError as error:
        if error.encoding.lower().replace("-", "") == "utf8" or error.encoding != getattr(sys.stdout, "encoding", None):
            raise
        raise SystemExit(
            f"error: standard output is {error.encoding}, which lacks a character; set PYTHONUTF8=1"
        ) from None
    except BaseException as error:
        broken = _silence_broken()
        if not _can_be_written(sys.stdout):
            _silence(sys.stdout)
        if broken and isinstance(error, SystemExit) and (not error.code or sys.stderr in broken):
            raise SystemExit(BROKEN_PIPE) from None
        raise
    finally:
        logging.raiseExceptions = saved


def _silence_broken() -> list:
    """The streams whose reader has gone; what is left of them goes nowhere."""
    broken = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in broken:
        _silence(stream)
    return broken


def _has_no_reader(stream) -> bool:
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):  # none, or not of a file
        return False


def _can_be_written(stream) -> bool:
    """Whether what was printed can be written."""
    try:
        if stream is not None:
            stream.flush()
            os.write(stream.fileno(), b"")
        return True
    except (ValueError, AttributeError):  # not of a file
        return True
    except OSError:
        return False


def _silence(stream) -> None:
    """Send what is left of a stream nowhere, so that the end of Python does not complain of it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass
