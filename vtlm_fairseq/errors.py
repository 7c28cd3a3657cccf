"""The one error class of the package, and how it ends a command with one line."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TOO_MANY = (errno.EMFILE, errno.ENFILE)
_MOST = 2000  # characters of a message; what is more is an id or a name that is no such thing
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, what turns the direction of writing, and halves of characters."""


def printable(text: str) -> str:
    """A text as one line that a terminal shows as it is: escape sequences and the like are written as ``\\x1b``."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


class VTLMError(ValueError):
    """A fault of the input or the options that the user can mend.

    The message is one line: what is wrong, where (file, image id, line), and which option or command
    mends it. Control characters are shown as escapes. A limit on open files, wherever it was met, is said as that.
    """

    def __init__(self, message: str) -> None:
        line = printable(" ".join(message.split()))
        if any(os.strerror(number) in line for number in _TOO_MANY):
            line = _too_many_files(line.split(": ")[0])
        super().__init__(line if len(line) <= _MOST else f"{line[: _MOST // 2]} ... {line[-_MOST // 2 :]}")


def _too_many_files(where: str) -> str:
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return f"{where}: too many open files, this process may have {limit}; raise the limit with ulimit -n"


def reason(error: Exception) -> str:
    """Why something failed, for a message: the system's words without its number, else the first line of the error.

    numpy advises to trust what it takes for pickled objects, which is all that it does not know.
    """
    said = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
    return "it holds something else, or pickled objects" if "allow_pickle" in said else said


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a `VTLMError` into `SystemExit("error: ...")`: one line on stderr, exit status 1, no traceback.

    A full disk is such a fault too, wherever a file is written, and so is a limit on open files.

    For the start-up code of tasks (fairseq's own commands print a traceback for any other exception) and
    for the `main` of each command. Use it in the main process only: `SystemExit` inside a DataLoader worker
    loses its message.
    """
    try:
        yield
    except VTLMError as error:
        raise SystemExit(f"error: {error}") from None
    except RuntimeError as error:  # of a DataLoader whose workers have too many files to send
        if not any(os.strerror(number) in str(error) for number in _TOO_MANY):
            raise
        raise SystemExit(f"error: {_too_many_files('this command')}") from None
    except OSError as error:
        if error.errno in _TOO_MANY:
            raise SystemExit(f"error: {_too_many_files(printable(str(error.filename or 'this command')))}") from None
        if error.errno not in FULL:
            raise
        where = printable(f"{error.filename}: ") if error.filename else ""
        raise SystemExit(
            f"error: {where}cannot be written ({error.strerror}); make room and give the same command again"
        ) from None


@contextmanager
def raise_instead_of_exit() -> Iterator[None]:
    """Turn what :func:`exit_on_error` makes of a fault into `VTLMError` again, for callers from Python."""
    try:
        yield
    except SystemExit as error:
        raise VTLMError(str(error.code).removeprefix("error: ")) from None
