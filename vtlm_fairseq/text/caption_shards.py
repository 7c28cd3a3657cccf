"""Captions beside images: tar shards in webdataset's layout, parquet, and what img2dataset writes of both.

webdataset: members of one key (the name up to the first dot of its last part) follow each other, KEY.jpg, KEY.json,
KEY.txt. img2dataset: KEY.json, and a row for each URL in SHARD.parquet beside SHARD.tar, say `key`, `url`, `status`
(`success`, `failed_to_download`, `failed_to_resize`) and `caption`; a tar file holds those that were fetched only.
"""

import glob
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.json_objects import parse_object
from vtlm_fairseq.files.tar import tar_members
from vtlm_fairseq.text.pairs import Pair

MAX_TEXT_BYTES = 1 << 24
"""Of a member of text."""

_FETCHED = "success"
_FETCH_COLUMNS = ("key", "url", "status")
_ROWS = 500
_BEGINNING = 100


def shards(path: str, option: str) -> list[str]:
    """Files that a path or a pattern names, in order.

    Raises:
        VTLMError: none.
    """
    found = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path)))
    if not found:
        raise VTLMError(f"{option} {path}: no such file")
    return found


def tar_pairs(paths: Sequence[str], columns: tuple[str | None, str, str], *, prefix: bool) -> Iterator[Pair]:
    """A pair for each key of tar files; one whose image was not fetched, or without text, has a reason.

    Args:
        paths: of the tar files.
        columns: of image (None: the key), source and target: `.txt` is the member KEY.txt, another name a key of the
            object in KEY.json.
        prefix: the ids begin with the name of the tar file.

    Raises:
        VTLMError: a damaged tar file, a member that is no text or JSON, keys that repeat in several tar files.
    """
    if not prefix and columns[0] is None:
        _check_keys((tar, islice(_samples(tar, set()), _BEGINNING)) for tar in paths if len(paths) > 1)
    wanted = {_member(column) for column in columns if column is not None}
    for tar in paths:
        for key, texts, dotted in _samples(tar, wanted):
            pair = _of_sample(tar, key, texts, wanted, columns, dotted=dotted)
            yield pair._replace(prefix=_name(tar) if prefix else "", shard=_name(tar))


def _member(column: str) -> str:
    return column[1:].lower() if column.startswith(".") else "json"


def _name(path: str) -> str:
    return f"{os.path.splitext(os.path.basename(path))[0]}/"


def _samples(tar: str, wanted: set[str]) -> Iterator[tuple[str, dict[str, str], bool]]:
    """Each key, the text of those of its members that are wanted, by ending, and whether some are after another dot."""
    key, texts, dotted = None, {}, False
    for member, read in tar_members(tar, mode="r:", hint="copy it again, and unpack it if it is compressed"):
        folder, name = os.path.split(member.name)
        stem, _, suffix = name.partition(".")
        if not stem or not suffix:
            continue
        here, suffix, place = os.path.join(folder, stem), suffix.lower(), f"{tar}/{member.name}"
        if here != key:
            if key is not None:
                yield key, texts, dotted
            key, texts, dotted = here, {}, False
        dotted |= suffix not in wanted and any(suffix.endswith(f".{ending}") for ending in wanted)
        if suffix in wanted:
            if suffix in texts:
                raise VTLMError(f"{place}: a second member of this name; make the tar file again")
            if member.size > MAX_TEXT_BYTES:
                raise VTLMError(f"{place}: more than {MAX_TEXT_BYTES:,} bytes, no caption has them")
            try:
                texts[suffix] = read().decode("utf-8-sig")
            except UnicodeDecodeError:
                raise VTLMError(f"{place}: not UTF-8 text; convert it") from None
    if key is not None:
        yield key, texts, dotted


def _of_sample(
    tar: str,
    key: str,
    texts: Mapping[str, str],
    wanted: set[str],
    columns: tuple[str | None, str, str],
    *,
    dotted: bool,
) -> Pair:
    place = f"{tar}/{key}"
    if lacking := sorted(wanted - texts.keys()):
        why = f"no .{lacking[0]} member follows or precedes the others of its key"
        if dotted:
            why += ", which ends at the first dot of a name: rename members that have dots before their ending"
        return Pair(key, "", "", place, reason=why)
    record = parse_object(texts["json"].encode(), f"{place}.json", hint="mend it") if "json" in wanted else {}
    if why := _not_fetched(record, {"url", "status"}):
        return Pair(key, "", "", place, reason=why)
    image, source, target = (
        key if column is None else texts[_member(column)] if column.startswith(".") else _field(record, column, place)
        for column in columns
    )
    return Pair(image.strip(), source.rstrip("\r\n"), target.rstrip("\r\n"), place)


def _not_fetched(record: Mapping[str, Any], marks: set[str]) -> str:
    """Why there is no image, by the status of a downloader; empty where there is."""
    if not marks <= record.keys() or record["status"] == _FETCHED:
        return ""
    return f"image was not fetched, status {str(record['status'])[:40]!r}"


def _field(record: Mapping[str, Any], name: str, place: str) -> str:
    """A text; none where it is null, the number of an id as text."""
    if name not in record:
        raise VTLMError(f"{place}: no {name!r}, there is {', '.join(map(str, list(record)[:20]))}; see --columns")
    value = record[name]
    if value is None:
        return ""
    if type(value) is int:
        return str(value)
    if not isinstance(value, str):
        raise VTLMError(f"{place}: {name!r} is {str(value)[:40]!r}, must be text; see --columns")
    return value


def _check_keys(beginnings: Iterable[tuple[str, Iterable[tuple[str, *tuple[object, ...]]]]]) -> None:
    """Keys that repeat are met at the beginnings of the files: of each, the first keys with whatever they have."""
    first: dict[str, str] = {}
    for path, keys in beginnings:
        for key, *_ in keys:
            if first.setdefault(key, path) != path:
                raise VTLMError(
                    f"{first[key]} and {path} both have key {key!r}: --id-prefix tar, also given to vtlm-extract, puts "
                    "the names of the tar files before the keys"
                )


def parquet_pairs(paths: Sequence[str], columns: tuple[str | None, str, str], *, prefix: bool) -> Iterator[Pair]:
    """A pair for each row of parquet files; one whose image was not fetched has a reason.

    Args:
        paths: of the files.
        columns: of image, source and target; `a.b` is field b of a struct. Image None: `key` where the file is
            img2dataset's, else `image`.
        prefix: the ids begin with the name of the file, which img2dataset gives a tar file and the parquet beside it.

    Raises:
        VTLMError: pyarrow is not there, a file that it cannot read, no such column, a value that is no text, keys of
            img2dataset that repeat in several files.
    """
    from vtlm_fairseq.regions.formats.containers.record import open_parquet

    if not prefix and columns[0] is None:
        _check_keys((path, _first_keys(path)) for path in paths if len(paths) > 1)
    for path in paths:
        with open_parquet(path) as file:
            names = list(file.schema_arrow.names)
            fetched = set(_FETCH_COLUMNS)
            image = columns[0] or ("key" if fetched <= set(names) else "image")
            wanted = (image, *columns[1:])
            for column in wanted:
                if column not in names and column.partition(".")[0] not in names:
                    raise VTLMError(
                        f"{path}: no column {column!r}, there is {', '.join(names[:20]) or 'none'}; see --columns"
                    )
            read = sorted({*wanted, *(fetched if fetched <= set(names) else ())})
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS, columns=read, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    place = f"{path} row {number}"
                    why = _not_fetched(record, fetched)
                    values = [str(record["key"]), "", ""] if why else [_nested(record, name, place) for name in wanted]
                    given = _name(path) if prefix else ""
                    yield Pair(values[0].strip(), values[1], values[2], place, given, why, _name(path))


def _first_keys(path: str) -> list[tuple[str]]:
    """Keys of the first rows of a file that is img2dataset's; of another file none."""
    from vtlm_fairseq.regions.formats.containers.record import open_parquet

    with open_parquet(path) as file:
        if not set(_FETCH_COLUMNS) <= set(file.schema_arrow.names):
            return []
        batch = next(file.iter_batches(batch_size=_BEGINNING, columns=["key"], use_threads=False), None)
        return [] if batch is None else [(str(key),) for key in batch.column(0).to_pylist()]


def _nested(record: Mapping[str, Any], name: str, place: str) -> str:
    """A text of a row, or of a struct in it."""
    if name not in record:
        outer, _, name = name.partition(".")
        record = record[outer]
        if not isinstance(record, Mapping):
            raise VTLMError(f"{place}: {outer!r} is {str(record)[:40]!r}, no struct with {name!r}; see --columns")
    return _field(record, name, place)
