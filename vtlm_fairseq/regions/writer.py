"""Write a region store, image by image, in bounded memory; the file appears only when it is complete."""

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import WholeFile
from vtlm_fairseq.files.names import is_text
from vtlm_fairseq.regions.checks import Rules
from vtlm_fairseq.regions.schema import (
    FEATURE_DTYPES,
    ROOT_ATTRIBUTES,
    SCHEMA_VERSION,
    SOFT_VERSION,
    add_ids,
    encode_id,
)

CHUNK_BYTES = 4 << 20


def discard(file: h5py.File, path: str) -> None:
    """Close a file under ``path`` that cannot be written.

    HDF5 would try to write what it still holds at every object that goes, and h5py print a stack each time: it gets
    memory to write to.
    """
    with suppress(OSError, RuntimeError, ValueError):
        descriptor = file.id.get_vfd_handle()
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            spare = os.memfd_create("discarded")
            os.dup2(spare, descriptor)
            os.close(spare)
    with suppress(OSError, RuntimeError):
        file.close()


def add_dataset(file: h5py.File, name: str, **options: Any) -> None:
    """Make a dataset of given data and write it at once.

    What HDF5 holds back it writes when the dataset is let go of, where h5py drops errors.
    """
    dataset = file.create_dataset(name, **options)
    dataset.flush()


@contextmanager
def writing(path: str) -> Iterator[None]:
    """Turn what h5py raises where a file cannot be written, as on a full disk, into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = re.search(r"error message = '([^']*)'", str(error))  # the system's, within HDF5's
        raise VTLMError(
            f"{path}: cannot be written ({reason[1] if reason else str(error)[:200]}); make room and give the same "
            "command again"
        ) from None


class RegionStoreWriter:
    """Write images and their regions to a new store; use as a context manager.

    Regions of an image are stored best score first (stable: equal scores keep the order given). The data go
    to a temporary name in the same folder, renamed to `path` when the block ends without an exception and
    removed otherwise; an older file under `path` is replaced only then.

    Args:
        path: the file to make.
        feature_dim: D.
        class_names: C detector classes in the order of the labels, without background.
        detector: free text: what made the regions.
        created_by: free text: what wrote the file.
        dtype: "float16" or "float32", of the features.
        num_soft: class scores that are kept of each region, the best; 0: none, C: all.
        attributes: further root attributes (numbers, strings).

    Attributes:
        rules: what is checked of each image.

    Raises:
        VTLMError: an option out of range, an attribute that the schema itself sets, or no such folder.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        feature_dim: int,
        class_names: Sequence[str],
        detector: str,
        created_by: str = "vtlm-fairseq",
        dtype: str = "float16",
        num_soft: int = 0,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.class_names = list(class_names)
        self.feature_dim = int(feature_dim)
        self._check_options(dtype, attributes or {}, {"detector": detector, "created_by": created_by})
        self.dtype = np.dtype(dtype)
        self._attributes = {
            **(attributes or {}),
            "schema_version": SOFT_VERSION if num_soft else SCHEMA_VERSION,
            "detector": detector,
            "feature_dim": self.feature_dim,
            "num_classes": len(self.class_names),
            "created_by": created_by,
        }
        self.rules = Rules(self.feature_dim, len(self.class_names), self.dtype, num_soft)
        self._chunk_rows = max(1, CHUNK_BYTES // (self.feature_dim * self.dtype.itemsize))
        self._ids: dict[str, None] = {}
        self._counts: list[int] = []
        soft = ("soft_labels", "soft_classes")[: 0 if not num_soft else 1 if num_soft == len(self.class_names) else 2]
        self._buffer: dict[str, list[np.ndarray]] = {name: [] for name in ("boxes", "labels", "scores", *soft)}
        self._features = np.empty((0, self.feature_dim), self.dtype)  # room of those that are buffered
        self._buffered = 0
        self._places: dict[str, tuple[int, int]] = {}  # of each dataset its byte in the file, and bytes of a region
        self._plain: int | None = None
        self._file: h5py.File | None = None
        self._whole = WholeFile(self.path, wait=0)

    def _check_options(self, dtype: str, attributes: Mapping[str, Any], texts: Mapping[str, str]) -> None:
        if self.feature_dim < 1:
            raise VTLMError(f"{self.path}: feature_dim is {self.feature_dim}, must be at least 1")
        if not 1 <= len(self.class_names) <= np.iinfo(np.int16).max:
            raise VTLMError(f"{self.path}: {len(self.class_names)} class names, must be 1 to 32767 (labels are int16)")
        for name, text in [("class name", name) for name in self.class_names] + [*attributes.items(), *texts.items()]:
            if isinstance(text, str) and not is_text(text):
                raise VTLMError(
                    f"{self.path}: {name} {text[:99]!r} cannot be stored: a zero or half a character is in it"
                )
        if dtype not in FEATURE_DTYPES:
            raise VTLMError(f"{self.path}: dtype {dtype!r}, must be {' or '.join(FEATURE_DTYPES)}")
        taken = [name for name in attributes if name in ROOT_ATTRIBUTES]
        if taken:
            raise VTLMError(f"{self.path}: attribute {taken[0]!r} is set by the schema; use another name")

    def __enter__(self) -> "RegionStoreWriter":
        with ExitStack() as stack:
            stack.enter_context(self._whole)
            with writing(self.path):
                # without a cache, which would write a chunk anew with each piece of it
                self._file = h5py.File(
                    self._whole.temporary, "w", libver=("v110", "v110"), locking=False, rdcc_nbytes=0
                )
            stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._plain is not None:
            os.close(self._plain)
        if kind is not None:
            self._discard()
            self._whole.__exit__(kind, error, trace)
            return
        with ExitStack() as stack:
            stack.push(self._whole)
            stack.callback(self._discard)
            with self._discarded_on_error():
                self._finish()

    def _discard(self) -> None:
        if self._file is not None:
            discard(self._file, self._whole.temporary)
            self._file = None

    @contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        with writing(self.path):
            try:
                yield
            except (OSError, RuntimeError):  # here, where the objects of the file are still open
                self._discard()
                raise

    def add(
        self,
        image_id: str,
        *,
        features: np.ndarray,
        boxes: np.ndarray,
        labels: np.ndarray,
        scores: np.ndarray | None = None,
        soft_labels: np.ndarray | None = None,
    ) -> None:
        """Add one image.

        Args:
            image_id: unique in the store.
            features: [R, D] numbers; R may be 0.
            boxes: [R, 4], x1, y1, x2, y2 divided by image width and height, within 0..1.
            labels: [R] whole numbers in 0..C-1.
            scores: [R] detector confidence; None stores 1.0.
            soft_labels: [R, C] class scores, probabilities, where `num_soft` are kept.

        Raises:
            VTLMError: a duplicate id, a shape, a value that is not finite or out of range, naming the image.
        """
        try:
            arrays = self.rules.check(
                features=features, boxes=boxes, labels=labels, scores=scores, soft_labels=soft_labels
            )
        except VTLMError as error:
            raise VTLMError(f"{self.path}: image {image_id!r}: {error}") from None
        self.extend([image_id], [len(arrays["labels"])], arrays)

    def extend(self, image_ids: Sequence[str], counts: Sequence[int], arrays: Mapping[str, np.ndarray]) -> None:
        """Add images whose regions are as `rules.check` gives them.

        Args:
            image_ids: unique in the store.
            counts: regions of each image.
            arrays: features, boxes, labels, scores and class scores of all of them, one after the other.

        Raises:
            VTLMError: an id that is no line of text, or a duplicate one.
        """
        if self._file is None:
            raise RuntimeError("RegionStoreWriter.add outside its with block")
        for image_id in image_ids:
            self.check_id(image_id)
            self._ids[image_id] = None
        for name, parts in self._buffer.items():
            parts.append(arrays[name])
        self._counts.extend(counts)
        start, self._buffered = self._buffered, self._buffered + len(arrays["labels"])
        if self._buffered > len(self._features):
            room = np.empty((max(self._buffered, 2 * len(self._features)), self.feature_dim), self.dtype)
            room[:start] = self._features[:start]
            self._features = room
        self._features[start : self._buffered] = arrays["features"]
        if self._buffered >= self._chunk_rows:
            with self._discarded_on_error():
                self._flush()

    def reserve(self, regions: int) -> None:
        """Make room for all regions, in one piece; they come by `copy`, and in no other way.

        Args:
            regions: how many there will be, of all images.
        """
        assert self._file is not None and not self._counts
        layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        with self._discarded_on_error():
            for name, empty in self._empty().items() if regions else ():
                space, kind = h5py.h5s.create_simple((regions, *empty.shape[1:])), h5py.h5t.py_create(empty.dtype)
                dataset = h5py.h5d.create(self._file.id, name.encode(), kind, space, layout)
                self._places[name] = dataset.get_offset(), empty.dtype.itemsize * math.prod(empty.shape[1:])
            self._plain = os.open(self._whole.temporary, os.O_WRONLY)

    def copy(self, image_ids: Sequence[str], counts: Sequence[int], write: Callable[[str, int, int], object]) -> None:
        """Add images whose values stand in another store's file.

        Args:
            image_ids: unique in the store.
            counts: regions of each image.
            write: called with the name of each dataset, an open file and the byte in it from which on it writes the
                values of all these regions.

        Raises:
            VTLMError: an id that is no line of text, or a duplicate one; no room.
        """
        done = sum(self._counts)
        for image_id in image_ids:
            self.check_id(image_id)
            self._ids[image_id] = None
        self._counts.extend(counts)
        with self._discarded_on_error():
            for name, (start, size) in self._places.items():
                write(name, self._plain, start + done * size)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._ids

    def check_id(self, image_id: str, where: str = "") -> None:
        """Refuse an id that cannot be added; `where` is how the message begins.

        Raises:
            VTLMError: it is no line of text, or is there.
        """
        where = where or f"{self.path}: image {image_id!r}"
        if not image_id or set(image_id) & set("\0\n\r"):
            raise VTLMError(f"{where}: an image id is one line of text, not empty")
        encode_id(image_id)
        if image_id in self._ids:
            raise VTLMError(f"{where} is given twice; ids must be unique")

    def _flush(self) -> None:
        """Append what is buffered to the growing datasets, which the first call makes."""
        assert self._file is not None
        for name, values in self._values().items():
            if name not in self._file:
                wide = name == "features" or name.startswith("soft_")
                rows = max(1, CHUNK_BYTES // values[:1].nbytes) if wide else 1 << 16
                shape = (0, *values.shape[1:])
                self._file.create_dataset(
                    name, shape, values.dtype, maxshape=(None, *shape[1:]), chunks=(rows, *shape[1:])
                )
            dataset = self._file[name]
            start = len(dataset)
            dataset.resize(start + len(values), axis=0)
            dataset[start:] = values
            dataset.flush()  # here it fails on a full disk; when the dataset is let go of, h5py drops the error
        for parts in self._buffer.values():
            parts.clear()
        self._buffered = 0

    def _values(self) -> dict[str, np.ndarray]:
        """What is buffered."""
        empty = self._empty()
        small = {name: np.concatenate([empty[name], *parts]) for name, parts in self._buffer.items()}
        return {"features": self._features[: self._buffered], **small}

    def _finish(self) -> None:
        assert self._file is not None
        if "features" in self._file:
            if self._buffered:
                self._flush()
        else:
            self._write_small()
        add_ids(self._file, self._ids)
        offsets = np.zeros(len(self._counts) + 1, dtype=np.int64)
        np.cumsum(self._counts, out=offsets[1:])
        add_dataset(self._file, "offsets", data=offsets)
        add_dataset(self._file, "class_names", data=self.class_names, dtype=h5py.string_dtype("utf-8"))
        for name, value in self._attributes.items():
            self._file.attrs[name] = value
        self._file.flush()  # where the disk is full it can still be discarded, which is too late when closing fails
        self._file.close()
        self._file = None

    def _write_small(self) -> None:
        """All regions fit in one buffer: datasets of just their size, without chunks."""
        assert self._file is not None
        for name, values in self._values().items():
            add_dataset(self._file, name, data=values)

    def _empty(self) -> dict[str, np.ndarray]:
        """Of each dataset, the values of no region."""
        wide = (0, self.rules.num_soft)
        soft = {"soft_labels": np.empty(wide, np.float16), "soft_classes": np.empty(wide, np.int16)}
        return {
            "features": np.empty((0, self.feature_dim), self.dtype),
            "boxes": np.empty((0, 4), np.float32),
            "labels": np.empty(0, np.int16),
            "scores": np.empty(0, np.float32),
            **{name: values for name, values in soft.items() if name in self._buffer},
        }
