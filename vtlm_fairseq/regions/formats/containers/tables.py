"""Rows of a table: TSV with named columns, parquet."""

import base64
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.regions.formats.containers.record import Record, faulty, library, open_parquet, text_id
from vtlm_fairseq.regions.formats.layout import Layout

_ROWS = 8  # of a parquet file, at once


def tsv_lines(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Lines of a file, tabs between the columns; those with a type are arrays in base64."""
    types = {name: _dtype(name, text, layout) for name, text in layout.types.items()}
    key = layout.id or layout.columns[0]
    if key not in layout.columns:
        raise VTLMError(f"layout {layout.name}: id {key!r} is none of its columns")
    layout.refuse_ids(ids, f"column {key} has the ids")
    columns, named_by = list(layout.columns), f"layout {layout.name}"
    for number, line in enumerate(stream_lines(path), start=1):
        where, parts = f"{path}, line {number}", line.split("\t")
        if number == 1 and is_header(parts, layout.columns):
            lacking = [name for name in (key, *layout.needed(optional=False)) if name not in parts]
            if lacking:
                raise VTLMError(
                    f"{where}: names the columns, and {lacking[0]!r} is none of them; write the names there as layout "
                    f"{layout.name} has them ({', '.join(layout.columns)}), or take the line out"
                )
            columns, named_by = parts, "line 1"
            continue
        if len(parts) != len(columns):
            yield faulty(
                VTLMError(
                    f"{where}: {len(parts)} columns between tabs, {named_by} has {len(columns)}; the file is "
                    "cut off, or say --layout-set columns=..."
                )
            )
            continue

        def load(parts: list[str] = parts, where: str = where, columns: list[str] = columns) -> Mapping[str, Any]:
            named = dict(zip(columns, parts, strict=True))
            return {
                name: decoded(named[name], types[name], f"{where}, {name}") if name in types else named[name]
                for name in layout.needed()
                if name in named
            }

        yield Record(layout.image_id(plain_text(parts[columns.index(key)])), where, load)


def is_header(fields: Sequence[str], names: Collection[str]) -> bool:
    """Whether the first line of a table names its columns: two of the names known are in it."""
    return len(set(names) & set(fields)) > 1


def _dtype(name: str, text: str, layout: Layout) -> np.dtype:
    known = {kind: np.dtype(kind).newbyteorder("<") for kind in ("float16", "float32", "float64", "int32", "int64")}
    if text not in known:
        raise VTLMError(f"layout {layout.name}: types.{name} is {text!r}, must be one of {', '.join(known)}")
    return known[text]


def plain_text(field: str) -> str:
    """A field without the ``b'...'`` that Python's csv writer puts around bytes."""
    if len(field) >= 3 and field[0] == "b" and field[1] in "'\"" and field[-1] == field[1]:
        return field[2:-1]
    return field


def decoded(field: str, dtype: np.dtype, where: str) -> np.ndarray:
    """Values of an array in base64, [n].

    Raises:
        VTLMError: it is no base64, or no whole number of values.
    """
    try:
        data = base64.b64decode(plain_text(field), validate=True)
    except ValueError:
        raise VTLMError(f"{where}: not base64; the file is cut off or has other columns") from None
    if len(data) % dtype.itemsize:
        raise VTLMError(f"{where}: {len(data)} bytes, no multiple of {dtype.itemsize}; another type of values?")
    return np.frombuffer(data, dtype)


def parquet_rows(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Rows of a parquet file, whose columns are numbers and (nested) lists of them."""
    if not layout.id and ids is None:
        raise VTLMError(f"layout {layout.name} needs id=COLUMN, the image ids, or --ids FILE")
    arrow = library("pyarrow")
    with open_parquet(path) as file:
        held = list(file.schema_arrow.names)
        if layout.id and layout.id not in held:
            raise VTLMError(f"{path}: column {layout.id!r} is missing, there is {', '.join(held[:20]) or 'none'}")
        names, number = [name for name in layout.needed() if name in held], 0
        if ids is not None and file.metadata.num_rows != len(ids):
            raise VTLMError(f"--ids: {len(ids)} lines, but {path} has {file.metadata.num_rows} rows")
        for batch in file.iter_batches(batch_size=_ROWS, columns=names, use_threads=False):
            columns = {name: batch.column(name) for name in batch.schema.names}
            for row in range(batch.num_rows):
                where = f"{path}, row {number + 1}"
                if ids is not None and number >= len(ids):
                    raise VTLMError(f"{path}: more rows than it declares")
                given = columns[layout.id][row].as_py() if layout.id else (ids or ())[number]
                number += 1
                try:
                    image_id = text_id(given, where)
                except VTLMError as error:
                    yield faulty(error)
                    continue

                def load(row: int = row, columns: dict = columns, where: str = where) -> Mapping[str, Any]:
                    try:
                        return {name: column[row].as_py() for name, column in columns.items()}
                    except (arrow.ArrowException, ValueError, TypeError, OverflowError) as error:
                        raise VTLMError(f"{where}: unreadable ({reason(error)})") from None

                yield Record(layout.image_id(image_id), where, load)
