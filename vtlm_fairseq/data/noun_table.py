"""Nouns and their translations beside the data: ``{split}.{source}-{target}.nouns``, made by ``vtlm-prepare nouns``."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Sequence

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files import whole_file
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

SCHEMA_VERSION = 1


class NounTable:
    """Aligned nouns by line.

    Args:
        rows: [P, 5] int32, ascending by line: line (from 0), sub-words ``[start, end)`` of the noun in the source
            sentence and of its word in the target sentence, without a leading ``</s>``.
        lines: number of lines.

    Attributes:
        count: number of nouns.
    """

    def __init__(self, rows: np.ndarray, lines: int) -> None:
        self.count = len(rows)
        self._spans = rows[:, 1:].astype(np.int64)
        self._starts = np.searchsorted(rows[:, 0], np.arange(lines + 1))

    def __getitem__(self, line: int) -> np.ndarray:
        """[P, 4] int64: the spans of a line."""
        return self._spans[self._starts[line] : self._starts[line + 1]]


def write_table(folder: str, split: str, pair: tuple[str, str], rows: np.ndarray) -> str:
    """Write the table of a split whole, with the checksum of the text that it is for; its path is returned.

    Raises:
        VTLMError: it cannot be written.
    """
    path = _path(folder, split, pair)
    with whole_file(path, "wb") as file:
        np.savez(file, schema_version=np.int32(SCHEMA_VERSION), text=np.str_(checksum(folder, split, pair)), rows=rows)
    return path


def read_tables(
    folder: str, parts: Sequence[str], pair: tuple[str, str], sizes: Sequence[int], *, upsample: int = 1
) -> NounTable:
    """The table of a split whose parts are joined.

    Args:
        folder: of the binarised data.
        parts: names of the parts.
        pair: source and target; a table that was made for the other direction serves too.
        sizes: lines of each part.
        upsample: how often the first part comes.

    Raises:
        VTLMError: a table is missing or damaged, or was made for other data.
    """
    rows, first = [], 0
    for k, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        found = _read(folder, part, pair, size)
        for _ in range(1 if k else upsample):
            rows.append(found + [first, 0, 0, 0, 0])
            first += size
    made = np.concatenate(rows)
    logger.info("%s: %d aligned nouns in %d of %d lines", parts[0], len(made), len(np.unique(made[:, 0])), first)
    return NounTable(made, first)


def table_paths(folder: str, parts: Sequence[str], pair: tuple[str, str]) -> list[str]:
    """Where the tables of a split's parts are, or would be."""
    found = []
    for part in parts:
        paths = [_path(folder, part, one) for one in (pair, pair[::-1])]
        found.append(next(filter(os.path.exists, paths), paths[0]))
    return found


def make_hint(folder: str, split: str) -> str:
    """The command that makes a table, for messages."""
    return f"make it with: vtlm-prepare nouns {folder} --subsets {split} and --regions STORE or --words FILE"


def checksum(folder: str, split: str, pair: tuple[str, str]) -> str:
    """Of the vocabulary and the binarised text of a split, whichever direction it was binarised in.

    Raises:
        VTLMError: a file cannot be read.
    """
    whole = hashlib.sha256()
    for lang in sorted(pair):
        names = [f"{split}.{a}-{b}.{lang}{end}" for a, b in (pair, pair[::-1]) for end in ("", ".bin", ".idx")]
        for path in (os.path.join(folder, name) for name in (f"dict.{lang}.txt", *names)):
            if os.path.isfile(path):
                try:
                    with open(path, "rb") as file:
                        whole.update(hashlib.file_digest(file, "sha256").digest())
                except OSError as error:
                    raise VTLMError(f"{path}: cannot be read ({reason(error)})") from None
    return whole.hexdigest()


def _path(folder: str, split: str, pair: tuple[str, str]) -> str:
    return os.path.join(folder, f"{split}.{'-'.join(pair)}.nouns")


def _read(folder: str, part: str, pair: tuple[str, str], lines: int) -> np.ndarray:
    """[P, 5] int64 of one part."""
    (path,) = table_paths(folder, [part], pair)
    if not os.path.isfile(path):
        raise VTLMError(f"{path}: no such table of aligned nouns; {make_hint(folder, part)}")
    try:
        with np.load(path, allow_pickle=False) as file:
            version, text, rows = file["schema_version"], file["text"], file["rows"]
            damaged = version.shape != () or rows.ndim != 2 or rows.shape[1:] != (5,) or rows.dtype != np.int32
    except (OSError, ValueError, KeyError, EOFError, TypeError, AttributeError, zipfile.BadZipFile):
        damaged = True
    if not damaged and int(version) > SCHEMA_VERSION:
        raise VTLMError(
            f"{path}: has schema version {version}, this vtlm-fairseq knows {SCHEMA_VERSION}; {make_hint(folder, part)}"
        )
    if not damaged and str(text) != checksum(folder, part, pair):
        raise VTLMError(
            f"{path}: was made for other text, or with another dictionary, than {part} of {folder} has; "
            f"{make_hint(folder, part)}"
        )
    if damaged or not _is_sound(rows, lines):
        raise VTLMError(f"{path}: is damaged; {make_hint(folder, part)}")
    rows = rows.astype(np.int64)
    return rows if path == _path(folder, part, pair) else rows[:, [0, 3, 4, 1, 2]]


def _is_sound(rows: np.ndarray, lines: int) -> bool:
    """Whether rows are ascending by line, within the split, and their spans hold sub-words."""
    where, spans = rows[:, 0], rows[:, 1:].reshape(-1, 2)
    ordered = (np.diff(where) >= 0).all() and ((where >= 0) & (where < lines)).all()
    return bool(ordered and (spans[:, 0] >= 0).all() and (spans[:, 0] < spans[:, 1]).all())
