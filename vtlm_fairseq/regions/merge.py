"""Join region stores to one: by virtual datasets that refer to the shards, or by copying."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import h5py
import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import WholeFile, check_writable
from vtlm_fairseq.files.inputs import refuse_input
from vtlm_fairseq.regions.checks import bad_boxes, beyond_image, within_image
from vtlm_fairseq.regions.schema import (
    ROOT_ATTRIBUTES,
    SCHEMA_VERSION,
    SOFT_VERSION,
    add_ids,
    decode,
    open_file,
    read_header,
    unreadable,
)
from vtlm_fairseq.regions.store import RegionStore, RegionStoreWriter
from vtlm_fairseq.regions.writer import add_dataset, discard, writing

_SMALL_DATASETS = {"boxes": ((4,), "float32"), "labels": ((), "int16"), "scores": ((), "float32")}
_BLOCK = 1 << 20
_COPY_BYTES = 16 << 20  # of features, between two steps of progress
_CHUNK_ROWS = 1 << 16  # as the writer makes them: HDF5 reads parts of a chunk, but 64 kB of contiguous data


def merge_stores(
    shards: Sequence[str],
    out: str,
    *,
    copy: bool = False,
    on_progress: Callable[[int], object] | None = None,
) -> RegionStore:
    """Join stores, in the order given, to one file.

    Args:
        shards: store files; ids must be unique over all of them, and detector, feature width, dtype and classes
            the same.
        out: the file to make, under a temporary name first. A virtual store must lie in the folder of the shards
            or above it, and moves with them.
        copy: copy all regions; otherwise the features stay where they are and `out` refers to them by relative path (an
            HDF5 virtual dataset).
        on_progress: called with the number of images copied so far.

    Returns:
        The shards as one store, open.

    Raises:
        VTLMError: stores that do not fit together, an id given twice, or shards outside the folder of `out`.
    """
    check_writable(out, label=f"--out {out}", streams=False)
    attributes = _check_shards(shards, out)
    store = RegionStore(shards, max_regions=None)
    for path in shards:
        _check_boxes(path)
    if copy:
        with writer_like(store, out, attributes) as writer:
            copy_regions(store, writer, on_progress)
    else:
        _write_virtual(store, out, attributes)
    return store


def writer_like(store: RegionStore, out: str, attributes: Mapping[str, object]) -> RegionStoreWriter:
    """A writer of a store of the same detector and sizes."""
    return RegionStoreWriter(
        out,
        feature_dim=store.feature_dim,
        class_names=store.class_names,
        detector=store.detector,
        created_by=str(store.attributes["created_by"]),
        dtype=store.dtype.name,
        num_soft=store.num_soft,
        attributes=attributes,
    )


def copy_regions(
    store: RegionStore, writer: RegionStoreWriter, on_progress: Callable[[int], object] | None = None
) -> None:
    """Add all images of a store to a writer, in their order; `on_progress` gets the number done so far."""
    for row, image_id in enumerate(store.ids()):
        soft = {}
        if store.num_soft:
            soft["soft_labels"] = store.read_soft(np.array([row])).dense(store.num_classes)
        writer.add(image_id, **store[row]._asdict(), **soft)
        if on_progress is not None:
            on_progress(row + 1)


def copy_rows(
    store: RegionStore,
    rows: np.ndarray,
    writer: RegionStoreWriter,
    on_progress: Callable[[int], object] | None = None,
) -> None:
    """Add images to a new writer as they stand in their files: the system copies what follows each other.

    Args:
        store: with all regions of its images.
        rows: of the images, in the order of the new store.
        writer: of the same sizes and types.
        on_progress: called with the number of images copied so far.
    """
    ids, counts = store.ids(), store.counts(rows)
    most = max(1, _COPY_BYTES // (store.feature_dim * store.dtype.itemsize))
    writer.reserve(int(counts.sum()))
    start = 0
    while start < len(rows):
        end, regions = start + 1, int(counts[start])
        while end < len(rows) and rows[end] == rows[end - 1] + 1 and regions + counts[end] <= most:
            if not store.in_one_file(int(rows[start]), int(rows[end])):
                break
            regions += int(counts[end])
            end += 1
        write = partial(store.copy_block, int(rows[start]), int(rows[end - 1]) + 1)
        writer.copy([ids[row] for row in rows[start:end]], counts[start:end].tolist(), write)
        if on_progress is not None:
            on_progress(end)
        start = end


def _check_shards(shards: Sequence[str], out: str) -> dict[str, object]:
    """Refuse shards of several detectors; returns the attributes beyond the schema's own on which all agree."""
    refuse_input(out, shards, label=f"--out {out}")
    common: dict[str, object] = {}
    for number, shard in enumerate(shards):
        attributes = read_header(shard).attributes
        if number == 0:
            detector, common = attributes["detector"], attributes
        if attributes["detector"] != detector:
            raise VTLMError(
                f"{shard}: regions are by {attributes['detector']!r}, those of {shards[0]} by {detector!r}; "
                "features of two detectors do not mix, leave one of them out"
            )
        common = {name: value for name, value in common.items() if attributes.get(name) == value}
    return {name: value for name, value in common.items() if name not in ROOT_ATTRIBUTES}


def _check_boxes(path: str) -> None:
    """Refuse boxes beyond the image."""
    with unreadable(path), open_file(path) as file:
        for start in range(0, len(file["boxes"]), _BLOCK):
            boxes = file["boxes"][start : start + _BLOCK]
            if not within_image(boxes):
                header = read_header(path)
                row = int(beyond_image(boxes).argmax())
                image = decode(header.ids[np.searchsorted(header.offsets, start + row, side="right") - 1])
                raise bad_boxes(f"{path}: image {image!r}", boxes[row : row + 1])


def _write_virtual(store: RegionStore, out: str, attributes: dict[str, object]) -> None:
    folder = os.path.dirname(os.path.realpath(out))
    sources = [os.path.relpath(os.path.realpath(path), folder) for path in store.paths]
    outside = [path for path, source in zip(store.paths, sources, strict=True) if source.split(os.sep)[0] == ".."]
    if outside:
        raise VTLMError(
            f"--out {out}: {outside[0]} lies outside its folder, and a virtual store refers only to files beside or "
            "below it; put --out above the shards, or add --copy"
        )
    with WholeFile(out, wait=0) as whole, writing(out):
        file = h5py.File(whole.temporary, "w", libver=("v110", "v110"), locking=False)
        try:
            _fill_virtual(file, store, sources)
            file.attrs.update(attributes)
            file.flush()
        except BaseException:
            discard(file, whole.temporary)
            raise
        file.close()


def _fill_virtual(file: h5py.File, store: RegionStore, sources: list[str]) -> None:
    """What is wide is virtual; what is small is copied, which keeps reads near the speed of a single file."""
    with open_file(store.paths[0]) as first:
        wide = ["features", *(name for name in ("soft_labels", "soft_classes") if store.num_soft and name in first)]
        layouts = {
            name: h5py.VirtualLayout((store.num_regions, *first[name].shape[1:]), first[name].dtype) for name in wide
        }
    small = {
        name: file.create_dataset(
            name, (store.num_regions, *row), dtype, chunks=(_CHUNK_ROWS, *row), maxshape=(None, *row)
        )
        for name, (row, dtype) in _SMALL_DATASETS.items()
    }
    start = 0
    for path, source in zip(store.paths, sources, strict=True):
        with open_file(path) as shard:
            end = start + len(shard["features"])
            if end > start:
                for name, layout in layouts.items():
                    whole = h5py.VirtualSource(source, name, shard[name].shape, layout.dtype)
                    layout[start:end] = whole[: end - start]  # a selection with bounds, which readers check
            for name, dataset in small.items():
                for row in range(start, end, _BLOCK):
                    last = min(end, row + _BLOCK)
                    dataset[row:last] = shard[name][row - start : last - start]
        start = end
    for dataset in small.values():
        dataset.flush()
    for name, layout in layouts.items():
        file.create_virtual_dataset(name, layout)
    add_ids(file, store.ids())
    counts = store.counts(np.arange(len(store)))
    add_dataset(file, "offsets", data=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))
    add_dataset(file, "class_names", data=store.class_names, dtype=h5py.string_dtype("utf-8"))
    file.attrs.update(
        schema_version=SOFT_VERSION if store.num_soft else SCHEMA_VERSION,
        detector=store.detector,
        feature_dim=store.feature_dim,
        num_classes=store.num_classes,
        created_by=str(store.attributes["created_by"]),
    )
