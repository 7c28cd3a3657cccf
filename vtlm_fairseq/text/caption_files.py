"""Parallel captions as users have them, read as a stream: tables, JSON lines, shards, or line files together."""

import json
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import plain_or_packed, stream_lines
from vtlm_fairseq.files.names import is_text
from vtlm_fairseq.text.caption_shards import parquet_pairs, shards, tar_pairs
from vtlm_fairseq.text.caption_tables import QuotesWatch, columns_of, delimiter_of, is_number, table_rows
from vtlm_fairseq.text.pairs import Pair

FORMATS = ("auto", "tsv", "csv", "jsonl", "parquet", "tar", "lines")
COLUMNS = "image=1,en=3,de=4"
"""The paper's Conceptual Captions: image, URL, English, German."""
IMAGE = "image"
_SUFFIXES = {
    ".tsv": "tsv", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".tar": "tar"
}  # fmt: skip
SHARDS = ("parquet", "tar")


def layout_of(path: str, layout: str = "auto") -> str:
    """Of `FORMATS`, by the file's name where it is not given."""
    return _SUFFIXES.get(Path(path.removesuffix(".gz")).suffix, "lines") if layout == "auto" else layout


class CaptionFile:
    """Sentence pairs of a file, or of line files with a common prefix; can be read several times.

    Args:
        path: a table or JSON-lines file, plain or `.gz`; parquet or tar files, which may be a pattern; or the PREFIX of
            PREFIX.{source}, PREFIX.{target} and PREFIX.images.
        source_lang: language of the first side.
        target_lang: language of the second side.
        columns: where `image` and each language stand: in a table a number from 1, or a name of its first line; in
            JSON lines and parquet a key; in tar files `.txt` for KEY.txt, or a key in KEY.json. Shards need no `image`.
            None: the paper's in TSV, else columns of these names.
        layout: of `FORMATS`; `auto` goes by the file's name.
        quoting: of a table, of `QUOTING`; None: none in TSV, minimal in CSV.
        prefix: image ids of shards begin with the name of the file.
        option: the option that named the file, for messages.

    Attributes:
        layout: of `FORMATS`, without `auto`.

    Raises:
        VTLMError: no such file, or a column is not given.
    """

    def __init__(
        self,
        path: str,
        *,
        source_lang: str,
        target_lang: str,
        columns: Mapping[str, str] | None,
        layout: str = "auto",
        quoting: str | None = None,
        prefix: bool = False,
        option: str = "--train",
    ) -> None:
        self.path, self._langs = path, (source_lang, target_lang)
        self.layout = layout = layout_of(path, layout)
        self._quoting, self._prefix = quoting, prefix
        needed = self._langs if layout in SHARDS else (IMAGE, *self._langs)
        if columns is None:
            columns = parse_columns(COLUMNS) if layout == "tsv" else {name: name for name in needed}
        self._columns = dict(columns)
        if layout in SHARDS:
            self._shards = shards(path, option)
        if layout == "lines":
            self._files = [_find(f"{path}.{name}", option) for name in (source_lang, target_lang, "images")]
        elif layout not in SHARDS and not Path(path).is_file():
            raise VTLMError(f"{option} {path}: no such file")
        else:
            lacking = [name for name in needed if name not in self._columns]
            if lacking:
                raise VTLMError(
                    f"--columns does not say where {', '.join(lacking)} is; e.g. --columns image=1,en=3,de=4"
                )

    def __iter__(self) -> Iterator[Pair]:
        readers = {"jsonl": self._read_jsonl, "lines": self._read_lines, **dict.fromkeys(SHARDS, self._read_shards)}
        for pair in readers.get(self.layout, self._read_table)():
            if not pair.image.strip():
                raise VTLMError(f"{pair.place}: no image id")
            if set(pair.image) & set("\n\r") or not all(map(is_text, pair[:3])):
                raise VTLMError(
                    f"{pair.place}: the image id is more than one line, or a zero character or half a character is in "
                    "the text; mend the line"
                )
            yield pair

    def _read_table(self) -> Iterator[Pair]:
        quoting = self._quoting or ("minimal" if self.layout == "csv" else "none")
        watch = QuotesWatch(self.path) if self._quoting is None and quoting == "none" else None
        wanted = [self._columns[name] for name in (IMAGE, *self._langs)]
        delimiter = delimiter_of(self.path, self.layout, quoting=quoting, wanted=wanted)
        between = {"\t": "tabs", ",": "commas", ";": "semicolons"}[delimiter]
        rows = table_rows(self.path, delimiter=delimiter, quoting=quoting)
        names: list[str] = []
        if not all(map(is_number, wanted)):
            names = next(rows, ("", [""]))[1]
        image, source, target = columns_of(names, wanted, f"{self.path} line 1")
        if min(image, source, target) < 0:
            raise VTLMError("--columns: columns are counted from 1")
        width = len(names)
        for place, fields in rows:
            width = width or len(fields)
            if len(fields) != width or max(image, source, target) >= width:
                expected = f"{width}" if len(fields) != width else f"at least {1 + max(image, source, target)}"
                raise VTLMError(
                    f"{place}: {len(fields)} columns between {between}, must be {expected}; mend the line or see "
                    "--columns"
                )
            if watch is not None:
                watch.look((fields[source], fields[target]))
            yield Pair(fields[image].strip(), fields[source], fields[target], place)
        if watch is not None:
            watch.judge()

    def _read_shards(self) -> Iterator[Pair]:
        columns = (self._columns.get(IMAGE), *(self._columns[lang] for lang in self._langs))
        read = tar_pairs if self.layout == "tar" else parquet_pairs
        return read(self._shards, columns, prefix=self._prefix)

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


def parse_columns(text: str) -> dict[str, str]:
    """`image=1,en=3` as names and columns."""
    return dict(part.partition("=")[::2] for part in text.split(","))


def _find(path: str, option: str) -> Path:
    if found := plain_or_packed(path):
        return found
    raise VTLMError(
        f"{option}: neither {path} nor its .gz is there; give a file that ends in .tsv, .csv, "
        ".jsonl, .parquet or .tar, or the common beginning of line files and .images"
    )
