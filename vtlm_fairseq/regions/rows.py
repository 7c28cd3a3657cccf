"""Rows of the datasets of a region store, read past HDF5 where they lie in the file as they do in memory."""

import errno
import os
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import h5py
import numpy as np

from vtlm_fairseq.regions.file_identity import FileIdentity, check_unchanged, identify, is_changed, is_other
from vtlm_fairseq.regions.schema import content_of, open_file, read_ids, unreadable
from vtlm_fairseq.regions.soft_labels import SoftLabels

_PIECE = 1 << 20
_OTHER_FILE_SYSTEMS = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)


class StoreFile:
    """An open store file: what training reads of it, and what `vtlm-regions validate` checks.

    Args:
        path: the file.
        known: what this file and those that it takes data from were when its offsets were read, by path.
        content: `content_of` the file then.

    Attributes:
        file: as HDF5 sees it.
        features, boxes, labels, scores: its rows.

    Raises:
        VTLMError: it cannot be opened, or has changed.
    """

    def __init__(self, path: str, known: Mapping[str, FileIdentity], content: int) -> None:
        self._path = path
        self._known = known
        self.file = open_file(path)
        self._plain = open(path, "rb", buffering=0)
        found = identify(self.file.id.get_vfd_handle())
        same = not is_other(known[path], found) or is_changed(known[path], found) or self._content() == content
        check_unchanged(path, known[path], found, same=same)
        self.check()
        self.features, self.boxes, self.labels, self.scores = (
            Rows(self.file[name], self._plain) for name in ("features", "boxes", "labels", "scores")
        )
        self._soft: dict[str, Rows] = {}

    def check(self) -> None:
        """Look again whether the file was written to. One that was replaced is still open as it was, and good to read.

        Raises:
            VTLMError: it was; or a file that it takes data from, which HDF5 opens when it likes, has changed.
        """
        for path, known in self._known.items():
            check_unchanged(path, known, identify(self._plain.fileno() if path == self._path else path))

    def rows(self, name: str) -> "Rows":
        """Rows of a dataset, also of class scores."""
        if name in ("features", "boxes", "labels", "scores"):
            return getattr(self, name)
        if name not in self._soft:
            self._soft[name] = Rows(self.file[name], self._plain)
        return self._soft[name]

    def soft(self, names: Sequence[str], start: int, end: int) -> SoftLabels | None:
        """Class scores of rows, from the datasets of such names; None for none.

        Raises:
            OSError: the file ends before.
        """
        found = [self.rows(name)[start:end] for name in names]
        return SoftLabels(found[0], found[1] if len(found) > 1 else None) if found else None

    def _content(self) -> int:
        with unreadable(self._path):
            return content_of(read_ids(self.file["ids"]), self.file["offsets"][:])

    def close(self) -> None:
        """Close it in this process."""
        self.file.close()
        self._plain.close()


class Rows:
    """Rows of a dataset; ``rows[start:end]`` is what h5py gives for it.

    HDF5 takes about 10 µs a read, four reads an image. Where the dataset is neither compressed nor virtual, its chunks
    are found once, and a read is one of the operating system's.

    Args:
        dataset: of an open store file.
        file: the same file, opened unbuffered in this process.
    """

    def __init__(self, dataset: h5py.Dataset, file: BinaryIO) -> None:
        self._dataset = dataset
        self._file = file
        self._dtype = dataset.dtype
        self._shape = dataset.shape[1:]
        self._row_bytes = dataset.dtype.itemsize * int(np.prod(self._shape, dtype=np.int64))
        self._rows = max(1, dataset.chunks[0] if dataset.chunks else dataset.shape[0])
        self._starts = _chunk_starts(dataset)

    def __getitem__(self, span: slice) -> np.ndarray:
        """Rows ``span.start`` to ``span.stop``, which must be within the dataset.

        Raises:
            OSError: the file ends before.
        """
        out = np.empty((span.stop - span.start, *self._shape), self._dtype)
        self.read_into(span.start, span.stop, out, 0)
        return out

    def read_into(self, start: int, end: int, out: np.ndarray | memoryview, place: int) -> None:
        """Read rows ``start`` to ``end - 1`` to the rows of ``out`` from ``place`` on.

        Args:
            start, end: must be within the dataset.
            out: a contiguous array of rows, of the dataset's type, or, which takes less time to cut, its memoryview.
            place: of the first.

        Raises:
            OSError: the file ends before.
        """
        if self._starts is None:
            np.asarray(out[place : place + end - start])[...] = self._dataset[start:end]
            return
        while start < end:
            chunk, inside = divmod(start, self._rows)
            count = min(end - start, self._rows - inside)
            part, at = out[place : place + count], self._starts[chunk] + inside * self._row_bytes
            if os.preadv(self._file.fileno(), (part,), at) != count * self._row_bytes:
                raise OSError("the file is shorter than it says")
            start, place = start + count, place + count

    def copy_to(self, first: int, end: int, file: int, at: int) -> None:
        """Copy rows ``first`` to ``end - 1`` to a place in another file: by the system where both allow it.

        Raises:
            EOFError: the file ends before.
            OSError: the other one cannot be written.
        """
        if self._starts is None:
            values = np.ascontiguousarray(self._dataset[first:end], self._dtype.newbyteorder("="))
            _write(file, memoryview(values).cast("B") if values.size else b"", at)
            return
        while first < end:
            chunk, inside = divmod(first, self._rows)
            count = min(end - first, self._rows - inside)
            size = count * self._row_bytes
            _copy(self._file.fileno(), self._starts[chunk] + inside * self._row_bytes, file, at, size)
            first, at = first + count, at + size


def _copy(source: int, start: int, target: int, at: int, size: int) -> None:
    """Copy bytes from file to file."""
    while size:
        try:
            done = os.copy_file_range(source, target, size, start, at)
        except OSError as error:
            if error.errno not in _OTHER_FILE_SYSTEMS:
                raise
            data = os.pread(source, min(size, _PIECE), start)
            done = len(data)
            _write(target, data, at)
        if not done:
            raise EOFError("the file is shorter than it says")
        start, at, size = start + done, at + done, size - done


def _write(file: int, data: bytes | memoryview, at: int) -> None:
    while len(data):
        done = os.pwrite(file, data, at)
        data, at = data[done:], at + done


def _as_in_memory(dataset: h5py.Dataset) -> bool:
    """Whether values are stored as numpy keeps them: HDF5 has floats and integers of any width that it converts."""
    if not dataset.dtype.isnative or dataset.dtype.hasobject:
        return False
    return dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype)


def _chunk_starts(dataset: h5py.Dataset) -> list[int] | None:
    """Where each chunk of a dataset begins in the file; None where its rows cannot be read from there as they are."""
    layout = dataset.id.get_create_plist()
    simple = not dataset.is_virtual and not dataset.external and layout.get_nfilters() == 0
    if not simple or not _as_in_memory(dataset) or dataset.file.userblock_size:
        return None
    if dataset.chunks is None:
        start = dataset.id.get_offset()  # None: not allocated, or within the object's header
        return None if start is None else [start]
    if dataset.chunks[1:] != dataset.shape[1:]:
        return None
    starts = [0] * -(-dataset.shape[0] // dataset.chunks[0])

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        if chunk.chunk_offset[0] < dataset.shape[0]:
            starts[chunk.chunk_offset[0] // dataset.chunks[0]] = chunk.byte_offset or 0

    dataset.id.chunk_iter(note)
    return starts if all(starts) else None
