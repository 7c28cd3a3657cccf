"""The schema of a region store file, and what is checked each time one is opened.

A store is one HDF5 file: `ids` [N] string, `offsets` [N+1] int64, `features` [T, D] float16 or float32,
`boxes` [T, 4] float32 (x1, y1, x2, y2 as fractions of the image), `labels` [T] int16, `scores` [T] float32
and `class_names` [C] string. Regions of image i are the rows offsets[i]:offsets[i+1], best score first.

Version 2 may have class scores: `soft_labels` [T, K] float16, and `soft_classes` [T, K] int16, whose they are; without
the latter K is C and they are in the order of the classes.
"""

import math
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.file_identity import FileIdentity, identify

SCHEMA_VERSION, SOFT_VERSION = 1, 2
"""What is written, and what a store with class scores is."""
ROOT_ATTRIBUTES = ("schema_version", "detector", "feature_dim", "num_classes", "created_by")
FEATURE_DTYPES = ("float16", "float32")
_RANKS = {"ids": 1, "offsets": 1, "features": 2, "boxes": 2, "labels": 1, "scores": 1, "class_names": 1}
_DTYPES = {
    "offsets": ("int64",),
    "features": FEATURE_DTYPES,
    "boxes": ("float32",),
    "labels": ("int16",),
    "scores": ("float32",),
    "soft_labels": ("float16",),
    "soft_classes": ("int16",),
}
_SOFT = {"soft_labels": 2, "soft_classes": 2}  # ranks
_BLOCK = 1 << 24
_STRING_BLOCK = 1 << 10  # strings of variable length read at once: many may refer to the same long one
_REWRITE = "write it again with vtlm-regions convert"
_MAX_RATIO = 1100  # deflate cannot do better than 1032 to 1
_VARIABLE_BYTES = 64  # about what a string of variable length takes beside its own
MAX_ID_BYTES = 4096
DAMAGE = (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, AttributeError, MemoryError)
"""What h5py and numpy raise for a damaged file."""


@dataclass(frozen=True)
class StoreHeader:
    """What a store file says of itself, without its regions.

    Attributes:
        path: the file.
        ids: [N] byte strings (UTF-8), as `encode_ids` gives them.
        offsets: [N+1] int64.
        class_names: C names.
        dtype: of the features.
        attributes: all root attributes.
        files: what the file, and those that it takes data from, were when this was read, by path.
        num_soft: K, how many class scores a region has; 0: none.
        soft_names: datasets of these.
    """

    path: str
    ids: np.ndarray
    offsets: np.ndarray
    class_names: tuple[str, ...]
    dtype: np.dtype
    attributes: dict[str, Any]
    files: dict[str, FileIdentity]
    num_soft: int = 0
    soft_names: tuple[str, ...] = ()

    @property
    def content(self) -> int:
        """What tells the rows of this store from those of another."""
        return content_of(self.ids, self.offsets)

    @property
    def feature_dim(self) -> int:
        """D, the width of a region's features."""
        return int(self.attributes["feature_dim"])


def open_file(path: str) -> h5py.File:
    """Open a store file for reading, without a lock (network disks) and without a chunk cache.

    Without a cache a read of a few rows reads just these, not the chunks they lie in.

    Raises:
        VTLMError: no such file, or no intact HDF5 file.
    """
    if not os.path.isfile(path):
        what = "a folder, not one region store" if os.path.isdir(path) else "no such region store"
        raise VTLMError(f"{path}: {what}; --regions takes a file or a folder of {{split}}.h5 files")
    try:
        return h5py.File(path, "r", rdcc_nbytes=0, locking=False)
    except OSError as error:
        raise VTLMError(f"{path}: not an intact HDF5 file ({error}); {_REWRITE} or copy it again") from None


def decode(value: Any) -> str:
    """A string of HDF5 as `str`, whether h5py hands it out as bytes or as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def encode_ids(ids: Any) -> np.ndarray:
    """Image ids (str or bytes) as a numpy array of byte strings, the form in which stores compare them.

    Of one width, or of objects where one long id would make all others wide.

    Raises:
        VTLMError: an id that no store can hold (named).
    """
    encoded = [encode_id(image_id) for image_id in ids]
    if not encoded:
        return np.empty(0, dtype="S1")
    lengths = list(map(len, encoded))
    if max(lengths) * len(encoded) <= 2 * (sum(lengths) + _VARIABLE_BYTES * len(encoded)):
        return np.array(encoded, dtype=bytes)
    objects = np.empty(len(encoded), dtype=object)
    objects[:] = encoded
    return objects


def add_ids(file: h5py.File, ids: Any) -> None:
    """Make the dataset of image ids: strings of one length, or of their own where one is much longer than the others.

    Raises:
        VTLMError: an id that no store can hold (named).
    """
    encoded = encode_ids(ids)
    kind = h5py.string_dtype("utf-8", None if encoded.dtype.hasobject else encoded.dtype.itemsize)
    dataset = file.create_dataset("ids", data=encoded if encoded.dtype.hasobject else encoded.astype(kind), dtype=kind)
    dataset.flush()  # what HDF5 holds back it writes when the dataset is let go of, where h5py drops errors


def encode_id(image_id: str | bytes) -> bytes:
    """An image id as bytes.

    Raises:
        VTLMError: no store can hold it.
    """
    if not isinstance(image_id, str | bytes):
        raise VTLMError(f"image id {image_id!r} is of type {type(image_id).__name__}, must be text: {str(image_id)!r}?")
    try:
        encoded = image_id.encode("utf-8") if isinstance(image_id, str) else image_id
    except UnicodeEncodeError:
        raise VTLMError(f"image id {image_id[:99]!r} is not Unicode text") from None
    # numpy pads byte strings with zeros, and each takes the room of the longest
    if b"\0" in encoded or len(encoded) > MAX_ID_BYTES:
        raise VTLMError(f"image id {decode(encoded[:99])!r} holds a zero character or more than {MAX_ID_BYTES} bytes")
    return encoded


@contextmanager
def unreadable(path: str) -> Iterator[None]:
    """Turn what h5py and numpy raise for a damaged file into one line."""
    try:
        yield
    except VTLMError:
        raise
    except DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise VTLMError(f"{path}: unreadable ({reason[:300]}); {_REWRITE} or copy it again") from None


def read_header(path: str) -> StoreHeader:
    """Check a store file (all but the values of features, boxes and scores) and return its header.

    Memory is that of ids and offsets; labels are read in blocks.

    Raises:
        VTLMError: anything that is not as the schema says, naming the file, the dataset and, where there is
            one, the image id.
    """
    with unreadable(path), open_file(path) as file:
        files = {path: identify(file.id.get_vfd_handle())}
        attributes = _check_attributes(file, path)
        names = [*_RANKS, *(name for name in _SOFT if attributes["schema_version"] == SOFT_VERSION and name in file)]
        data = {name: _get_dataset(file, path, name, files) for name in names}
        return _read_header(path, data, attributes, files)


def content_of(ids: np.ndarray, offsets: np.ndarray) -> int:
    """A checksum of which rows belong to which image: [N] ids and [N+1] offsets."""
    text = b"\0".join(ids) if ids.dtype.hasobject else np.ascontiguousarray(ids).view(np.uint8)
    return zlib.crc32(np.ascontiguousarray(offsets), zlib.crc32(text))


def read_strings(path: str) -> None:
    """Open a store file and all its datasets, and read attributes, class names and ids.

    Raises:
        VTLMError: a fault of the schema.
    """
    with unreadable(path), open_file(path) as file:
        _check_attributes(file, path)
        data = {name: _get_dataset(file, path, name, {}) for name in _RANKS}
        for name in ("class_names", "ids"):
            if h5py.check_string_dtype(data[name].dtype) is not None and data[name].dtype.itemsize <= MAX_ID_BYTES:
                read_ids(data[name])


def read_ids(dataset: h5py.Dataset) -> np.ndarray:
    """[N] byte strings of a dataset of ids.

    Raises:
        VTLMError: an id that is too long (named).
    """
    if h5py.check_string_dtype(dataset.dtype).length is not None:
        return dataset[:]
    starts = range(0, len(dataset), _STRING_BLOCK)
    return encode_ids(image_id for start in starts for image_id in dataset[start : start + _STRING_BLOCK])


def check_stored(path: str, name: str, dataset: h5py.Dataset) -> None:
    """Refuse a dataset that declares more values than its file holds: HDF5 would make up the rest, without end.

    Raises:
        VTLMError: it does so.
    """
    declared = math.prod(dataset.shape or ())
    if dataset.is_virtual:
        held = sum(int(source.vspace.get_select_npoints()) for source in dataset.virtual_sources())
    else:
        held = dataset.id.get_storage_size() // max(1, dataset.id.get_type().get_size())
        held *= _MAX_RATIO if dataset.id.get_create_plist().get_nfilters() else 1
    if declared > held:
        raise VTLMError(f"{path}: {name} declares {declared} values, of which only {held} are stored; {_REWRITE}")


def _check_attributes(file: h5py.File, path: str) -> dict[str, Any]:
    attributes = {name: _plain(value) for name, value in file.attrs.items()}
    missing = [name for name in ROOT_ATTRIBUTES if name not in attributes]
    if missing:
        raise VTLMError(f"{path}: no region store, root attribute {missing[0]!r} is missing; {_REWRITE}")
    for name in ("schema_version", "feature_dim", "num_classes"):
        if not isinstance(attributes[name], int):
            raise VTLMError(f"{path}: root attribute {name} is {attributes[name]!r}, not a whole number; {_REWRITE}")
    if attributes["schema_version"] not in (SCHEMA_VERSION, SOFT_VERSION):
        raise VTLMError(
            f"{path}: schema_version {attributes['schema_version']} is not known (this version reads "
            f"{SCHEMA_VERSION} and {SOFT_VERSION}); install the vtlm-fairseq that wrote it or {_REWRITE}"
        )
    return attributes


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, np.generic):
        value = value.item()
    return decode(value) if isinstance(value, bytes) else value


def _get_dataset(file: h5py.File, path: str, name: str, files: dict[str, FileIdentity]) -> h5py.Dataset:
    """A dataset of the file itself, or a virtual one; files that it takes data from are added to ``files``."""
    link = file.get(name, getlink=True)
    folder = Path(path).resolve().parent
    if link is None:
        raise VTLMError(f"{path}: dataset {name!r} is missing; {_REWRITE}")
    _check_link(path, name, link)
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise VTLMError(f"{path}: {name!r} is a group, not a dataset; {_REWRITE}")
    _check_storage(path, name, folder, dataset, files, depth=0)
    return dataset


def _check_link(path: str, name: str, link: Any) -> None:
    """Refuse names for data of another place: rows are read from where the file itself keeps them."""
    if isinstance(link, h5py.SoftLink):
        raise VTLMError(f"{path}: {name!r} is a soft link to {link.path}; copy the data into the file")
    if isinstance(link, h5py.ExternalLink):
        raise VTLMError(
            f"{path}: {name!r} is an external link to {link.filename}; copy the data into the file (vtlm-regions merge "
            "joins stores)"
        )


def _check_inside(path: str, name: str, folder: Path, target: str) -> Path:
    """Path of a file that the store refers to; it must exist within the store's own folder."""
    resolved = (folder / target).resolve()
    if not resolved.is_relative_to(folder):
        raise VTLMError(
            f"{path}: {name!r} takes its data from {target}, outside the folder of the store; "
            "copy the data into the file (h5repack) or into its folder"
        )
    if not resolved.is_file():
        raise VTLMError(f"{path}: {name!r} takes its data from {target}, which is missing; copy it beside the store")
    return resolved


def _check_storage(
    path: str, name: str, folder: Path, dataset: h5py.Dataset, files: dict[str, FileIdentity], *, depth: int
) -> None:
    """Follow virtual storage to its files; HDF5 would fill in zeros for those that are missing."""
    if depth > 4:
        raise VTLMError(f"{path}: {name!r} is a virtual dataset of virtual datasets, too deep; {_REWRITE}")
    own = _check_inside(path, name, folder, os.path.abspath(dataset.file.filename))
    if dataset.external:
        raise VTLMError(f"{path}: {name!r} lies in raw files outside the HDF5 file; copy the data in with h5repack")
    check_stored(path, name, dataset)
    if not dataset.is_virtual:
        return
    sources = dataset.virtual_sources()
    if len(dataset.shape) == {**_RANKS, **_SOFT}.get(name):
        _check_cover(path, name, dataset.shape, sources)
    for target, source_name in sorted({(s.file_name, s.dset_name) for s in sources}):
        source_path = own if target == "." else _check_inside(path, name, folder, str(own.parent / target))
        with open_file(str(source_path)) as source_file:
            if target != ".":
                files[str(source_path)] = identify(source_file.id.get_vfd_handle())
            steps = [step for step in source_name.split("/") if step]
            for end in range(1, len(steps) + 1):
                _check_link(str(source_path), source_name, source_file.get("/".join(steps[:end]), getlink=True))
            source = source_file.get(source_name)
            if not isinstance(source, h5py.Dataset):
                raise VTLMError(
                    f"{path}: {name!r} takes its data from {target}, which has no dataset {source_name}; {_REWRITE}"
                )
            _check_storage(path, name, folder, source, files, depth=depth + 1)
            for part in sources:
                if (part.file_name, part.dset_name) == (target, source_name) and not _is_held(part, source):
                    raise VTLMError(f"{path}: {name!r} takes more data from {target} than are there; {_REWRITE}")


def _check_cover(path: str, name: str, shape: tuple[int, ...], sources: Sequence[Any]) -> None:
    """Refuse a virtual dataset whose sources are not blocks of whole rows that follow each other, as merge makes them.

    HDF5 fills rows without a source with zeros; sources may also lie over each other.
    """
    end = 0
    for first, last in sorted(part.vspace.get_select_bounds() for part in sources):
        whole = first[1:] == (0,) * len(shape[1:]) and last[1:] == tuple(size - 1 for size in shape[1:])
        if first[0] != end or not whole:
            raise VTLMError(
                f"{path}: {name!r} takes row {min(end, first[0])} from no other file, or from several; make the file "
                "again with vtlm-regions merge"
            )
        end = last[0] + 1


def _is_held(part: Any, source: h5py.Dataset) -> bool:
    """Whether a source of a virtual dataset has all the values that are taken from it."""
    if part.src_space.get_select_type() == h5py.h5s.SEL_ALL:
        return part.vspace.get_select_npoints() <= math.prod(source.shape)
    ends = part.src_space.get_select_bounds()[1]
    return len(ends) == len(source.shape) and all(end < size for end, size in zip(ends, source.shape, strict=True))


def _read_header(
    path: str, data: dict[str, h5py.Dataset], attributes: dict[str, Any], files: dict[str, FileIdentity]
) -> StoreHeader:
    _check_types(path, data)
    if data["ids"].dtype.itemsize > MAX_ID_BYTES:
        raise VTLMError(
            f"{path}: ids are {data['ids'].dtype.itemsize} bytes, at most {MAX_ID_BYTES} are read; {_REWRITE}"
        )
    num_classes, feature_dim = attributes["num_classes"], attributes["feature_dim"]
    names = tuple(decode(n) for n in data["class_names"][:])
    if len(names) != num_classes or num_classes < 1:
        raise VTLMError(f"{path}: num_classes is {num_classes} but class_names holds {len(names)}; {_REWRITE}")
    total, width = data["features"].shape
    if width != feature_dim:
        raise VTLMError(f"{path}: feature_dim is {feature_dim} but features are {width} wide; {_REWRITE}")
    if data["boxes"].shape[1] != 4:
        raise VTLMError(f"{path}: boxes are {data['boxes'].shape[1]} wide, must be 4 (x1, y1, x2, y2); {_REWRITE}")
    for name in ("boxes", "labels", "scores"):
        if len(data[name]) != total:
            raise VTLMError(f"{path}: {len(data[name])} {name} but {total} features; {_REWRITE}")
    num_soft = _check_soft(path, data, total, num_classes)
    ids = read_ids(data["ids"])
    offsets = data["offsets"][:]
    _check_offsets(path, ids, offsets, total)
    _check_labels(path, ids, offsets, data["labels"], num_classes)
    soft_names = tuple(name for name in _SOFT if name in data)
    return StoreHeader(path, ids, offsets, names, data["features"].dtype, attributes, files, num_soft, soft_names)


def _check_soft(path: str, data: dict[str, h5py.Dataset], total: int, num_classes: int) -> int:
    """How many class scores a region has."""
    if "soft_labels" not in data:
        if "soft_classes" in data:
            raise VTLMError(f"{path}: has soft_classes but no soft_labels; {_REWRITE}")
        return 0
    rows, kept = data["soft_labels"].shape
    least = 1 if "soft_classes" in data else num_classes
    if rows != total or not least <= kept <= num_classes:
        raise VTLMError(
            f"{path}: soft_labels are [{rows}, {kept}], must be [{total}, {least}{'' if least == num_classes else '..'}"
            f"{'' if least == num_classes else num_classes}]; {_REWRITE}"
        )
    if "soft_classes" in data and data["soft_classes"].shape != (rows, kept):
        raise VTLMError(
            f"{path}: soft_classes are {data['soft_classes'].shape}, soft_labels [{rows}, {kept}]; {_REWRITE}"
        )
    return kept


def _check_types(path: str, data: dict[str, h5py.Dataset]) -> None:
    for name, dataset in data.items():
        rank = {**_RANKS, **_SOFT}[name]
        if len(dataset.shape or ()) != rank:
            raise VTLMError(f"{path}: {name} has shape {dataset.shape}, must have {rank} axes; {_REWRITE}")
        if name in _DTYPES:
            if dataset.dtype not in [np.dtype(d) for d in _DTYPES[name]]:
                want = " or ".join(_DTYPES[name])
                raise VTLMError(f"{path}: {name} are {dataset.dtype}, must be {want}; {_REWRITE}")
        elif h5py.check_string_dtype(dataset.dtype) is None:
            raise VTLMError(f"{path}: {name} are {dataset.dtype}, must be UTF-8 strings; {_REWRITE}")


def _check_offsets(path: str, ids: np.ndarray, offsets: np.ndarray, total: int) -> None:
    if len(offsets) != len(ids) + 1:
        raise VTLMError(f"{path}: {len(ids)} ids need {len(ids) + 1} offsets, found {len(offsets)}; {_REWRITE}")
    if offsets[0] != 0 or offsets[-1] != total:
        raise VTLMError(
            f"{path}: offsets run from {offsets[0]} to {offsets[-1]}, must be from 0 to {total}; {_REWRITE}"
        )
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if len(falls):
        image = decode(ids[falls[0]])
        raise VTLMError(f"{path}: offsets fall at image {image!r} (row {falls[0]}); {_REWRITE}")


def _check_labels(path: str, ids: np.ndarray, offsets: np.ndarray, labels: h5py.Dataset, num_classes: int) -> None:
    for start in range(0, len(labels), _BLOCK):
        block = labels[start : start + _BLOCK]
        bad = np.flatnonzero((block < 0) | (block >= num_classes))
        if len(bad):
            row = start + int(bad[0])
            image = decode(ids[np.searchsorted(offsets, row, side="right") - 1])
            raise VTLMError(
                f"{path}: image {image!r} has label {block[bad[0]]}, must be in 0..{num_classes - 1} "
                f"(no background class); {_REWRITE}"
            )
