"""Arrays over N images: .npy, .npz, tensors of PyTorch, pickles."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError, reason
from vtlm_fairseq.regions.formats.containers.record import Record, npz_arrays, read_bytes, text_id, unpickled
from vtlm_fairseq.regions.formats.containers.tensors import load_tensors, to_numpy
from vtlm_fairseq.regions.formats.layout import Layout


def npy_arrays(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """A .npy of features, and those that the layout's `files` names beside it."""
    first = layout.features.rstrip("?")
    arrays = {first: _mapped(Path(path))}
    for name, file in layout.files.items():
        if name != first:
            arrays[name] = _mapped(Path(path).parent / file)
    return records(layout, path, arrays, ids)


def npz_records(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """Arrays of one .npz."""
    if not Path(path).is_file():
        raise VTLMError(f"{path}: no such file; the layout has the arrays of all images in one .npz")
    return records(layout, path, npz_arrays(path, path, layout.needed(), most=1 << 40), ids)


def pickled_arrays(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """A pickle of an array, or of a dictionary of arrays."""
    content = unpickled(read_bytes(Path(path), most=1 << 40), path)
    return records(layout, path, _named(layout, content), ids)


def torch_arrays(layout: Layout, path: str, ids: Sequence[str] | None) -> Iterator[Record]:
    """A file of PyTorch with a tensor, or a dictionary of tensors."""
    return records(layout, path, _named(layout, load_tensors(path)), ids)


def records(layout: Layout, path: str, arrays: Mapping[str, Any], ids: Sequence[str] | None) -> Iterator[Record]:
    """Image i of arrays whose first axis counts images."""
    first = layout.features.rstrip("?")
    if first not in arrays:
        raise VTLMError(f"{path}: {first!r} is missing, there is {', '.join(map(str, list(arrays)[:20])) or 'nothing'}")
    try:
        count = len(arrays[first])
    except TypeError:
        raise VTLMError(f"{path}: {first} is no array over images") from None
    used = {}
    for name in layout.needed():
        if name in arrays:
            try:
                length = len(arrays[name])
            except TypeError:
                length = -1
            if length != count:
                raise VTLMError(f"{path}: {name} is of {max(length, 0)} images, {first} of {count}")
            used[name] = arrays[name]
    if layout.id:
        if layout.id not in arrays:
            raise VTLMError(f"{path}: {layout.id!r}, the image ids, is missing")
        ids = [text_id(to_numpy(value, path) if hasattr(value, "numpy") else value, path) for value in used[layout.id]]
    if ids is None:
        raise VTLMError(f"layout {layout.name} needs --ids FILE, one image id a line, or id=FIELD in the layout")
    if len(ids) != count:
        raise VTLMError(f"--ids: {len(ids)} lines, but {path} holds {count} images")
    for number, image_id in enumerate(ids):

        def load(number: int = number) -> Mapping[str, Any]:
            return {name: _row(array, number, f"{path}, {name}") for name, array in used.items()}

        yield Record(layout.image_id(image_id), f"{path}, image {image_id[:99]!r}", load)


def _row(array: Any, number: int, where: str) -> Any:
    """A row of an array, of a dataset in a file, or of a tensor."""
    try:
        row = array[number]
    except MemoryError:
        raise
    except Exception as error:  # what numpy, HDF5 and torch raise for damage that they meet at the values
        raise VTLMError(f"{where}, row {number}: unreadable ({reason(error)}); write or copy the file again") from None
    return to_numpy(row, where) if hasattr(array, "numpy") else row


def _named(layout: Layout, content: Any) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {layout.features.rstrip("?"): content}


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy raises a dozen types for damaged files
        raise VTLMError(f"{path}: not a .npy file of plain numbers ({reason(error)})") from None
    if not isinstance(array, np.ndarray):
        raise VTLMError(f"{path}: a .npz file, not a .npy")
    return array
