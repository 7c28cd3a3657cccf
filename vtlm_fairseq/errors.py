"""The one error class of the package, and how it ends a command with one line."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class VTLMError(ValueError):
    """A fault of the input or the options that the user can mend.

    The message is one line: what is wrong, where (file, image id, line), and which option or command
    mends it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def reason(error: Exception) -> str:
    """Why something failed, for a message: the system's words without its number, else the first line of the error."""
    return getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a `VTLMError` into `SystemExit("error: ...")`: one line on stderr, exit status 1, no traceback.

    A full disk is such a fault too, wherever a file is written.

    For the start-up code of tasks (fairseq's own commands print a traceback for any other exception) and
    for the `main` of each command. Use it in the main process only: `SystemExit` inside a DataLoader worker
    loses its message.
    """
    try:
        yield
    except VTLMError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        where = f"{error.filename}: " if error.filename else ""
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
