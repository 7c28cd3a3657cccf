"""Parallel captions as users have them: TSV, JSON lines, or line files beside each other; read as a stream."""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import plain_or_packed, stream_lines
from vtlm_fairseq.files.names import is_text

FORMATS = ("auto", "tsv", "jsonl", "lines")
COLUMNS = "image=1,en=3,de=4"
"""The paper's Conceptual Captions: image, URL, English, German."""
IMAGE = "image"
_SUFFIXES = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Pair(NamedTuple):
    """A sentence pair and the id of its image; `place` says where it was read, for messages."""

    image: str
    source: str
    target: str
    place: str = ""


class CaptionFile:
    """Sentence pairs of a file, or of line files with a common prefix; can be read several times.

    Args:
        path: a TSV or JSON-lines file, plain or `.gz`, or the PREFIX of PREFIX.{source}, PREFIX.{target} and
            PREFIX.images.
        source_lang: language of the first side.
        target_lang: language of the second side.
        columns: where `image` and each language stand: in a TSV file a number from 1, or a name of its first line; in
            JSON lines a key.
        layout: of `FORMATS`; `auto` goes by the file's name.
        option: the option that named the file, for messages.

    Raises:
        VTLMError: no such file, or a column is not given.
    """

    def __init__(
        self,
        path: str,
        *,
        source_lang: str,
        target_lang: str,
        columns: Mapping[str, str],
        layout: str = "auto",
        option: str = "--train",
    ) -> None:
        self.path, self._langs, self._columns = path, (source_lang, target_lang), dict(columns)
        if layout == "auto":
            layout = _SUFFIXES.get(Path(path.removesuffix(".gz")).suffix, "lines")
        self._layout = layout
        if layout == "lines":
            self._files = [_find(f"{path}.{name}", option) for name in (source_lang, target_lang, "images")]
        elif not Path(path).is_file():
            raise VTLMError(f"{option} {path}: no such file")
        else:
            lacking = [name for name in (IMAGE, source_lang, target_lang) if name not in self._columns]
            if lacking:
                raise VTLMError(
                    f"--columns does not say where {', '.join(lacking)} is; e.g. --columns image=1,en=3,de=4"
                )

    def __iter__(self) -> Iterator[Pair]:
        read = {"tsv": self._read_tsv, "jsonl": self._read_jsonl, "lines": self._read_lines}[self._layout]
        for pair in read():
            if not pair.image.strip():
                raise VTLMError(f"{pair.place}: no image id")
            if set(pair.image) & set("\n\r") or not all(map(is_text, pair[:3])):
                raise VTLMError(
                    f"{pair.place}: the image id is more than one line, or a zero character or half a character is in "
                    "the text; mend the line"
                )
            yield pair

    def _read_tsv(self) -> Iterator[Pair]:
        lines = enumerate(stream_lines(self.path), start=1)
        wanted = [self._columns[name] for name in (IMAGE, *self._langs)]
        width = 0
        if not all(_is_number(column) for column in wanted):
            names = next(lines, (1, ""))[1].split("\t")
            for column in wanted:
                if not _is_number(column) and column not in names:
                    raise VTLMError(
                        f"{self.path} line 1: no column {column!r}, there are {', '.join(names)}; see --columns"
                    )
            wanted = [column if _is_number(column) else str(names.index(column) + 1) for column in wanted]
            width = len(names)
        image, source, target = (int(column) - 1 for column in wanted)
        if min(image, source, target) < 0:
            raise VTLMError("--columns: columns are counted from 1")
        for number, line in lines:
            fields = line.split("\t")
            width = width or len(fields)
            if len(fields) != width or max(image, source, target) >= width:
                expected = f"{width}" if len(fields) != width else f"at least {1 + max(image, source, target)}"
                raise VTLMError(
                    f"{self.path} line {number}: {len(fields)} columns between tabs, must be {expected}; mend the line "
                    "or see --columns"
                )
            yield Pair(fields[image].strip(), fields[source], fields[target], f"{self.path} line {number}")

    def _read_jsonl(self) -> Iterator[Pair]:
        keys = [self._columns[name] for name in (IMAGE, *self._langs)]
        for number, line in enumerate(stream_lines(self.path), start=1):
            place = f"{self.path} line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                raise VTLMError(f"{place}: not JSON") from None
            if not isinstance(record, dict):
                raise VTLMError(f"{place}: not a JSON object")
            values = [record.get(key) for key in keys]
            if type(values[0]) is int:
                values[0] = str(values[0])
            for key, value in zip(keys, values, strict=True):
                if not isinstance(value, str):
                    found = "missing" if key not in record else f"{json.dumps(value)[:40]}, must be text"
                    raise VTLMError(f"{place}: {key!r} is {found}; see --columns")
            yield Pair(*values, place)

    def _read_lines(self) -> Iterator[Pair]:
        source, target, images = self._files
        streams = [stream_lines(path) for path in self._files]
        for number, (source_line, target_line, image) in enumerate(zip_longest(*streams), start=1):
            ended = [
                str(path)
                for path, line in zip(self._files, (source_line, target_line, image), strict=True)
                if line is None
            ]
            if ended:
                raise VTLMError(
                    f"{', '.join(ended)}: ends before line {number}, which the others of {source}, {target}, {images} "
                    "have; lines of the three belong together"
                )
            yield Pair(image.strip(), source_line, target_line, f"{source} line {number}")


def _is_number(column: str) -> bool:
    """Whether a column is given by its number."""
    return column.isdecimal() and len(column) < 10


def _find(path: str, option: str) -> Path:
    if found := plain_or_packed(path):
        return found
    raise VTLMError(
        f"{option}: neither {path} nor its .gz is there; give a .tsv or .jsonl file, or the common beginning of line "
        "files and .images"
    )
