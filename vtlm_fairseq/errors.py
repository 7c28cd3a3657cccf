"""The one error class of the package, and how it ends a command with one line."""

from collections.abc import Iterator
from contextlib import contextmanager


class VTLMError(ValueError):
    """A fault of the input or the options that the user can mend.

    The message is one line: what is wrong, where (file, image id, line), and which option or command
    mends it.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Turn a `VTLMError` into `SystemExit("error: ...")`: one line on stderr, exit status 1, no traceback.

    For the start-up code of tasks (fairseq's own commands print a traceback for any other exception) and
    for the `main` of each command. Use it in the main process only: `SystemExit` inside a DataLoader worker
    loses its message.
    """
    try:
        yield
    except VTLMError as error:
        raise SystemExit(f"error: {error}") from None
