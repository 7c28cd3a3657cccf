r"""The one place that reads lines of text: UTF-8, plain or ``.gz``, from a file or from standard input.

A line ends at ``\n`` or ``\r\n``, the last one also at the end of the file; nothing else ends one, and an empty line is
a line. A byte order mark at the beginning is dropped. A ``\r`` elsewhere is refused: `wc -l` and sacreBLEU go on there,
fairseq begins a new line, so that the sides of a corpus would no longer belong together.
"""

from __future__ import annotations

import codecs
import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from vtlm_fairseq.errors import VTLMError, reason

MAX_LINE_BYTES = 1 << 24
"""Of a line: a small compressed file may hold one that fills the memory."""

_BLOCK_BYTES = 1 << 13  # few: a corpus has many streams
_RETURN = re.compile(rb"\r(?!\n)")

PathLike = str | os.PathLike[str]


def read_lines(
    path: PathLike, *, label: str | None = None, hint: str = "", filled: bool = False, strip: bool = False
) -> list[str]:
    """Lines of a text file, without their ends.

    Args:
        path: of the file.
        label: what messages call it, such as ``--ids FILE``; default: the path.
        hint: what mends a file that cannot be read or is no text.
        filled: there must be a line, and none may be empty.
        strip: blanks around each are left out.

    Raises:
        VTLMError: it cannot be read, is not UTF-8 (names line and byte), has a carriage return inside a line, or a line
            longer than `MAX_LINE_BYTES`.
    """
    lines = list(stream_lines(path, label=label, hint=hint))
    if strip:
        lines = [line.strip() for line in lines]
    if filled and not all(lines or [""]):
        raise VTLMError(f"{label or path}: line {lines.index('') + 1 if lines else 1} is empty")
    return lines


def stream_lines(path: PathLike, *, label: str | None = None, hint: str = "", returns: bool = False) -> Iterator[str]:
    """As `read_lines`, little by little.

    Args:
        path: of the file.
        label: what messages call it.
        hint: what mends it.
        returns: carriage returns inside a line stay, as progress bars leave them in logs.

    Raises:
        VTLMError: as `read_lines`.
    """
    label = label or os.fspath(path)
    with _faults(label, hint), _opened(path) as file:
        yield from split_lines(file, label, hint=hint, returns=returns)


def read_content(path: PathLike) -> BytesIO:
    """All that a file or a pipe gives, for `split_lines`, which may then look at it more than once.

    Raises:
        VTLMError: it cannot be read.
    """
    with _faults(os.fspath(path), ""), _opened(path) as file:
        return BytesIO(file.read())


def plain_or_packed(path: PathLike) -> Path | None:
    """The file, or else its ``.gz``; None where neither is there."""
    return next((found for found in (Path(path), Path(f"{path}.gz")) if found.is_file()), None)


def _opened(path: PathLike) -> BinaryIO:
    if not os.fspath(path).endswith(".gz"):
        return open(path, "rb")
    if os.path.isfile(path) and not os.path.getsize(path):
        raise EOFError("the file is empty, without even gzip's header")
    return gzip.open(path)


def standard_input_lines() -> Iterator[str]:
    """As `stream_lines`, each line as soon as it is there.

    Raises:
        VTLMError: as `read_lines`, or it is closed.
    """
    label, hint = "standard input", "give a file of lines"
    if sys.stdin is None:
        raise VTLMError(f"{label} is closed; {hint}")
    with _faults(label, hint):
        yield from split_lines(sys.stdin.buffer, label)


@contextmanager
def _faults(label: str, hint: str) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise VTLMError(f"{label}: cannot be read ({reason(error)})" + (f"; {hint}" if hint else "")) from None


def split_lines(file: BinaryIO, label: str, *, hint: str = "", returns: bool = False) -> Iterator[str]:
    """Lines of an open file; see `stream_lines`.

    Raises:
        VTLMError: as `read_lines`, where the file can be read.
    """
    number, offset, begins = 1, 0, True  # of the first line and byte of the next part
    rest: list[bytes] = []
    while True:
        block = file.read1(_BLOCK_BYTES)
        end = block.rfind(b"\n") + 1
        part = b""
        if end or not block:
            part, rest = b"".join([*rest, block[:end]]), [block[end:]]
        else:
            rest.append(block)
        if part.endswith(b"\r") and not part.endswith(b"\r\r"):
            part = part[:-1] + b"\n"  # cut within the last end
        if begins and part.startswith(codecs.BOM_UTF8):
            offset = len(codecs.BOM_UTF8)
            part = part[offset:]
        if part:
            yield from _decode(part, label, number=number, offset=offset, hint=hint, returns=returns)
            number, offset, begins = number + part.count(b"\n"), offset + len(part), False
        if not block:
            return
        if sum(map(len, rest)) > MAX_LINE_BYTES:
            raise VTLMError(f"{label} line {number}: more than {MAX_LINE_BYTES:,} bytes, no line of text has them")


def _decode(part: bytes, label: str, *, number: int, offset: int, hint: str, returns: bool) -> list[str]:
    """Whole lines, of which the first is line `number` and begins at byte `offset` of the file."""
    try:
        text = part.decode("utf-8")
        at = None if returns or b"\r" not in part else _RETURN.search(part)
        fault = at and "a carriage return inside the line; remove it"
    except UnicodeDecodeError as error:
        at, fault = error, f"not UTF-8 text; {hint or 'convert it'}"
    if fault:
        start = at.start() if isinstance(at, re.Match) else at.start
        line = number + part.count(b"\n", 0, start)
        raise VTLMError(f"{label} line {line}, byte {offset + start} of the file: {fault}")
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if text.endswith("\n") else lines
