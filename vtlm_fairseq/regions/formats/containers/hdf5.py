"""HDF5 files of others: a group an image, or arrays over N images."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import h5py

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.regions.formats.containers.record import MAX_BYTES, Record
from vtlm_fairseq.regions.formats.containers.stacked import records
from vtlm_fairseq.regions.formats.layout import Layout
from vtlm_fairseq.regions.schema import DAMAGE, check_stored


def groups(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Groups of a file, whose names are the image ids, with a dataset for each field."""
    layout.refuse_ids(ids, "the groups of its file are called after the ids")
    with _open(path) as file:
        try:
            for name in file:
                if name not in layout.skip:
                    where = f"{path}, {name[:99]}"

                    def load(name: str = name, where: str = where) -> Mapping[str, Any]:
                        return _group(file, name, layout, where)

                    yield Record(layout.image_id(name), where, load)
        except DAMAGE as error:
            raise _damage(path, error) from None


def arrays(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Datasets of a file whose first axis counts images."""
    with _open(path) as file:
        try:
            found = {name: _dataset(file, name, path) for name in layout.needed() if name in file}
            yield from records(layout, path, found, ids)
        except DAMAGE as error:
            raise _damage(path, error) from None


def _open(path: str) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise VTLMError(f"{path}: not an intact HDF5 file ({reason(error)}); write or copy it again") from None


def _damage(path: str, error: Exception) -> VTLMError:
    if isinstance(error, VTLMError):
        return error
    if isinstance(error, MemoryError):
        raise error
    return VTLMError(f"{path}: unreadable ({reason(error)[:300]}); write or copy it again")


def _group(file: h5py.File, name: str, layout: Layout, where: str) -> Mapping[str, Any]:
    try:
        _check_link(file, name, where)
        group = file[name]
        if isinstance(group, h5py.Dataset):
            return {layout.features: _value(_dataset(file, name, where), where)}
        return {part: _value(_dataset(group, part, where), where) for part in layout.needed() if part in group}
    except DAMAGE as error:
        raise _damage(where, error) from None


def _check_link(group: h5py.Group, name: str, where: str) -> None:
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise VTLMError(f"{where}: {name!r} is a link to another place; copy the data into the file (h5repack)")


def _dataset(group: h5py.Group, name: str, where: str) -> h5py.Dataset:
    _check_link(group, name, where)
    dataset = group[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
        raise VTLMError(f"{where}: {name!r} is no dataset of values")
    if dataset.is_virtual or dataset.external:
        raise VTLMError(f"{where}: {name!r} takes its data from other files; copy them into the file (h5repack)")
    check_stored(where, name, dataset)
    return dataset


def _value(dataset: h5py.Dataset, where: str) -> Any:
    if math.prod(dataset.shape) * dataset.dtype.itemsize > MAX_BYTES:
        raise VTLMError(f"{where}: {dataset.name} has {dataset.shape} values for one image")
    return dataset[()]
