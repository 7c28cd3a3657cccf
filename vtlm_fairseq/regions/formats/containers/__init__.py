"""Containers: files with a record for each image. Each gives its records in order, and reads one when asked for it."""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

from vtlm_fairseq.regions.formats.containers.record import Record
from vtlm_fairseq.regions.formats.layout import Layout

__all__ = ["Record", "open_container"]

_READERS = {
    ("npz", "image"): "files.npz_files",
    ("npz", "stacked"): "stacked.npz_records",
    ("npy", "image"): "files.npy_files",
    ("npy", "stacked"): "stacked.npy_arrays",
    ("pickle", "image"): "files.pickles",
    ("pickle", "stacked"): "stacked.pickled_arrays",
    ("h5", "image"): "hdf5.groups",
    ("h5", "stacked"): "hdf5.arrays",
    ("lmdb", "image"): "keyed.lmdb_values",
    ("torch", "image"): "keyed.torch_entries",
    ("torch", "stacked"): "stacked.torch_arrays",
    ("tsv", "image"): "tables.tsv_lines",
    ("parquet", "image"): "tables.parquet_rows",
    ("vinvl", "image"): "vinvl.lines",
}


def open_container(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Records of a file or folder.

    Args:
        layout: of the files.
        path: of the file or folder.
        ids: of the images in order, where the container has none.

    Raises:
        VTLMError: the container has no such arrangement, or is not as the layout says.
    """
    from vtlm_fairseq.errors import VTLMError

    name = _READERS.get((layout.container, layout.arrangement))
    if name is None:
        raise VTLMError(f"layout {layout.name}: a container {layout.container} has no arrangement {layout.arrangement}")
    module, function = name.split(".")
    reader: Callable[..., Iterator[Record]] = getattr(import_module(f"{__name__}.{module}"), function)
    return reader(layout, path, ids)
