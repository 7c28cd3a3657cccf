"""Values by image: LMDB, and dictionaries of tensors."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.regions.formats.containers.files import entries
from vtlm_fairseq.regions.formats.containers.record import (
    MAX_BYTES,
    Record,
    fields_of,
    library,
    msgpack_value,
    npz_arrays,
    text_id,
    unpickled,
)
from vtlm_fairseq.regions.formats.containers.tensors import load_tensors, to_numpy
from vtlm_fairseq.regions.formats.layout import Layout


def lmdb_values(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Values of an LMDB in the order of its keys, which are the image ids."""
    layout.refuse_ids(ids, "the keys of its LMDB are the ids")
    lmdb = library("lmdb")
    try:
        environment = lmdb.open(
            path, readonly=True, lock=False, create=False, readahead=False, subdir=Path(path).is_dir(), max_dbs=0
        )
    except (lmdb.Error, OSError, ValueError) as error:
        raise VTLMError(f"{path}: not an LMDB ({reason(error)}); a folder with data.mdb, or such a file") from None
    with environment:
        try:
            with environment.begin(buffers=True) as transaction:
                for key, value in transaction.cursor():
                    name = text_id(bytes(key), path)
                    if name not in layout.skip:
                        where = f"{path}, {name[:99]}"
                        image_id = layout.image_id(name)
                        yield Record(image_id, where, lambda value=value, at=where: _decode(layout, value, at))
        except lmdb.Error as error:
            raise VTLMError(f"{path}: damaged ({reason(error)}); write or copy it again") from None


def _decode(layout: Layout, value: memoryview, where: str) -> Mapping[str, Any]:
    if len(value) > MAX_BYTES:
        raise VTLMError(f"{where}: {len(value):,} bytes for one image, at most {MAX_BYTES:,} are read")
    if layout.value == "npz" or (layout.value == "msgpack" and value[:4] == b"PK\3\4"):
        return npz_arrays(io.BytesIO(value), where, layout.needed())
    return fields_of(msgpack_value(value, where) if layout.value == "msgpack" else unpickled(value, where), where)


def torch_entries(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Entries of a dictionary by image id, or of a list with an `id` each, each a tensor or a dictionary of tensors."""
    layout.refuse_ids(ids, "its file says which image is whose")
    for record in entries(layout, load_tensors(path), path):

        def load(record: Record = record) -> Mapping[str, Any]:
            return {name: to_numpy(value, record.where) for name, value in record.load().items()}

        yield record._replace(load=load)
