"""Read region stores: regions of an image by row, rows by image id.

A store is one file or several shards, opened lazily in each process. What travels to DataLoader workers is
the row table (offsets) only: ids are resolved to rows once, in the parent.
"""

import bisect
import os
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.regions.detector import Detector, check_detector
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.rows import StoreFile
from vtlm_fairseq.regions.schema import DAMAGE, StoreHeader, decode, encode_ids, read_header, read_ids, unreadable
from vtlm_fairseq.regions.soft_labels import SoftLabels
from vtlm_fairseq.regions.validate import validate
from vtlm_fairseq.regions.writer import RegionStoreWriter
from vtlm_fairseq.text.id_rules import AS_THERE, BOTH_SIDES, explain_missing

__all__ = ["RegionStore", "RegionStoreWriter", "Regions", "say_beyond", "validate"]

MAX_OPEN_FILES = 64  # a shard takes two descriptors; systems allow a process 256 or more
_CHECK_SECONDS = 30.0  # between looks at the open files
_opening = threading.Lock()
"""Held while files are opened and closed."""


def _renew_lock() -> None:
    """In a forked child: a thread that it does not have may hold the lock."""
    global _opening
    _opening = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


class Regions(NamedTuple):
    """The regions of one image, best score first.

    Attributes:
        features: [R, D], float16 or float32 as stored.
        boxes: [R, 4] float32, x1, y1, x2, y2 within 0..1.
        labels: [R] int64, detector class.
        scores: [R] float32.
    """

    features: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class RegionStore:
    """Regions of many images, in one file or several shards.

    Picklable at any time, and safe in threads and in forked and spawned workers: file handles belong to the process
    that opened them. Nothing but the row table is kept in memory. It belongs to the files as they were: one that
    another process finds replaced, or that was written to, is refused when it is opened, once an epoch and twice a
    minute.

    Args:
        paths: the files; images keep this order.
        max_regions: at most so many regions an image, the most confident; None keeps all.
        any_detector: the files may be of several detectors whose sizes and classes agree.
        repeats: an image may be in several files, as long as its regions there are the same (see `rows`).

    Attributes:
        feature_dim: D.
        num_classes: C.
        num_soft: K, how many class scores a region has; 0: none.
        class_names: C names.
        detector: what made the regions, of the first file.
        identity: its name and its classes.
        dtype: numpy dtype of the features.
        num_images: N over all files.
        num_regions: T over all files, before truncation.
        paths: the files, absolute.
        sources: further files from which virtual datasets of these take their data.
        attributes: root attributes of the first file.

    Raises:
        VTLMError: a file not as the schema says, shards that do not fit together, or an id given twice in one file
            or without `repeats`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        max_regions: int | None = MAX_REGIONS,
        *,
        any_detector: bool = False,
        repeats: bool = False,
    ) -> None:
        if max_regions is not None and max_regions < 1:
            raise VTLMError(f"--max-regions is {max_regions}, must be at least 1")
        if not paths:
            raise VTLMError("no region store given; --regions takes a file or a folder of {split}.h5 files")
        self.paths = [os.path.abspath(p) for p in paths]  # the working directory may change later
        self.max_regions = max_regions
        self.repeats = repeats
        headers = [read_header(path) for path in self.paths]
        first = headers[0]
        for other in headers[1:]:
            _check_agree(first, other)
            check_detector(
                identity(first), identity(other), where=other.path, owner=first.path, any_detector=any_detector
            )
        self.feature_dim = first.feature_dim
        self.class_names = list(first.class_names)
        self.num_classes = len(self.class_names)
        self.identity = identity(first)
        self.detector = self.identity.name
        self.dtype = first.dtype
        self.num_soft, self._soft_names = first.num_soft, first.soft_names
        self.attributes: dict[str, Any] = first.attributes
        sizes = [len(header.ids) for header in headers]
        self._bounds = [0, *np.cumsum(sizes).tolist()]
        # offsets of shard s, image i at index i + s: each shard has one more offset than it has images
        self._offsets = np.concatenate([header.offsets for header in headers])
        self.num_images = self._bounds[-1]
        self.num_regions = sum(int(header.offsets[-1]) for header in headers)
        self._index: tuple[np.ndarray, np.ndarray] | None = self._sort_ids([header.ids for header in headers])
        self._files = [(header.files, header.content) for header in headers]
        self.sources = tuple({path for files, _ in self._files for path in files} - set(self.paths))
        self._handles: dict[int, StoreFile] = {}
        self._check_at = 0.0
        self._pid = os.getpid()

    @classmethod
    def open(
        cls,
        regions: str,
        split: str | None,
        max_regions: int | None = MAX_REGIONS,
        *,
        parts: Sequence[str] = (),
        any_detector: bool = False,
    ) -> "RegionStore":
        """Open what `--regions` names (see :func:`store_files`): a file, or a folder with files of the split.

        Without a split, an image that several files of the folder hold counts as one.

        Raises:
            VTLMError: as :func:`store_files` and the constructor.
        """
        paths = store_files(regions, split, parts)
        return cls(paths, max_regions, any_detector=any_detector, repeats=split is None)

    def __len__(self) -> int:
        return self.num_images

    def _sort_ids(self, ids: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Ids in sorted order [N], and the row of each [N]; finds ids given twice."""
        joined = np.concatenate(ids)
        order = np.argsort(joined, kind="stable")
        joined = joined[order]
        twice = np.flatnonzero(joined[1:] == joined[:-1])
        if self.repeats:
            shards = np.searchsorted(self._bounds[1:], order, side="right")
            twice = twice[shards[twice] == shards[twice + 1]]
        if len(twice):
            image = f"{self._files_of(order[twice[0] : twice[0] + 2])}: image {decode(joined[twice[0]])!r}"
            raise VTLMError(f"{image} is there twice; ids must be unique, write the store again")
        return joined, order

    def rows(
        self, ids: Sequence[str], *, again: bool = False, lines: Sequence[int | str] = (), file: str = ""
    ) -> np.ndarray:
        """Rows of images by id, for `store[row]` and `counts`. Meant for the parent process, at start-up.

        Args:
            ids: image ids, any order, repeats allowed; of one that is not there, blanks around it are left out.
            again: more will be asked for, so that the sorted ids stay in memory.
            lines: number of the line of each id, or what to call it, where a message is to name it.
            file: whose lines the ids are, likewise.

        Returns:
            [len(ids)] int64.

        Raises:
            VTLMError: ids that are not in the store: how many, and the first five, or the line of the first; or, with
                `repeats`, one whose regions differ from file to file.
        """
        known, order = self._index or self._sort_ids([self._read_ids(s) for s in range(len(self.paths))])
        self._index = (known, order) if again else None
        wanted = encode_ids(ids)
        if len(wanted) == 0:
            return np.empty(0, dtype=np.int64)
        at, found = _places(known, wanted)
        if len(rest := np.flatnonzero(~found)):
            at[rest], found[rest] = _places(known, encode_ids([ids[i].strip() or ids[i] for i in rest]))
        if not found.all():
            absent = list(dict.fromkeys(decode(i) for i in wanted[~found]))
            hint = explain_missing(absent, map(decode, known), AS_THERE if len(lines) else BOTH_SIDES)
            if len(lines):
                line = lines[int(np.flatnonzero(~found)[0])]
                where = line if isinstance(line, str) else f"line {line}"
                raise VTLMError(f"{where}: image {absent[0][:99]!r} is not in {self._name()}; see --regions{hint}")
            first = ", ".join(repr(image_id[:99]) for image_id in absent[:5]) + (", ..." if len(absent) > 5 else "")
            where = f" (line {np.flatnonzero(~found)[0] + 1} of {file} is the first)" if file else ""
            raise VTLMError(
                f"{self._name()}: {len(absent)} image ids are missing from the store: {first}{where}; check "
                f"--regions, or the file of image ids{hint}"
            )
        if self.repeats:
            again = np.append(known[1:] == known[:-1], False)
            for first in np.unique(at[again[at]]).tolist():
                rows = order[first : np.searchsorted(known, known[first], side="right")]
                for row in rows[1:]:
                    if not all(map(np.array_equal, self[rows[0]], self[row])):
                        image = f"{self._files_of([rows[0], row])}: image {decode(known[first])!r}"
                        raise VTLMError(f"{image} has other regions in each; name one of the files with --regions")
        return order[at].astype(np.int64, copy=False)

    def _files_of(self, rows: Sequence[int]) -> str:
        return " and ".join(dict.fromkeys(self.paths[self._shard(int(row))] for row in rows))

    def ids(self) -> list[str]:
        """All N image ids in the order of rows (read from the files at each call)."""
        return [decode(i) for shard in range(len(self.paths)) for i in self._read_ids(shard)]

    def image_id(self, row: int) -> str:
        """The id of the image in a row, for messages."""
        shard = self._shard(row)
        return decode(self._handle(shard).file["ids"][row - self._bounds[shard]])

    def counts(self, rows: np.ndarray) -> np.ndarray:
        """Numbers of regions of images, after truncation to `max_regions`, without reading the files.

        Args:
            rows: [n] int64, from `rows`.

        Returns:
            [n] int64.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < self.num_images:
            raise IndexError(f"rows {rows.min()}..{rows.max()}, the store has {self.num_images} images")
        at = rows + np.searchsorted(self._bounds[1:], rows, side="right")
        counts = self._offsets[at + 1] - self._offsets[at]
        return counts if self.max_regions is None else np.minimum(counts, self.max_regions)

    def most_regions(self) -> int:
        """The most regions that an image has, before truncation."""
        return int(self._all_counts().max(initial=0))

    def _all_counts(self) -> np.ndarray:
        """[N] regions of each image, before truncation."""
        borders = [bound + shard for shard, bound in enumerate(self._bounds[1:-1])]  # no image: from shard to shard
        return np.delete(np.diff(self._offsets), borders)

    def beyond(self, rows: np.ndarray, max_regions: int | None = None) -> tuple[int, int]:
        """How many regions of images lie beyond a limit, and how many there are.

        Args:
            rows: [n] int64, from `rows`; one that is there twice counts once.
            max_regions: the limit; None: the store's.
        """
        used = np.zeros(self.num_images, dtype=bool)
        used[rows] = True
        counts = self._all_counts()[used]
        limit = max_regions or self.max_regions
        return (0 if limit is None else int(np.maximum(counts - limit, 0).sum())), int(counts.sum())

    def __getitem__(self, row: int) -> Regions:
        """The regions of the image in a row, at most `max_regions`, best first; one read a dataset.

        Raises:
            IndexError: no such row.
            VTLMError: the file cannot be read there (names file and image).
        """
        shard, start, end = self._span(row)
        with unreadable(f"{self.paths[shard]}: row {row}"):
            handle = self._handle(shard)
            return Regions(
                handle.features[start:end],
                handle.boxes[start:end],
                handle.labels[start:end].astype(np.int64),
                handle.scores[start:end],
            )

    def in_one_file(self, *rows: int) -> bool:
        """Whether images are in the same file."""
        return len({self._shard(row) for row in rows}) == 1

    def copy_block(self, first: int, end: int, name: str, file: int, start: int) -> None:
        """Copy a dataset's rows of images ``first`` to ``end - 1``, which are in one file, with all regions.

        Args:
            first, end: rows of the images.
            name: of the dataset.
            file: an open file.
            start: the byte in it where they are to begin.

        Raises:
            VTLMError: the store's file cannot be read there.
            OSError: the other one cannot be written.
        """
        shard = self._shard(first)
        from_row, to_row = int(self._offsets[first + shard]), int(self._offsets[end + shard])
        where = f"{self.paths[shard]}: rows {first} to {end - 1}"
        with unreadable(where):
            rows = self._handle(shard).rows(name)
        try:
            rows.copy_to(from_row, to_row, file, start)
        except EOFError as error:
            raise VTLMError(f"{where}: {error}; write or copy it again") from None

    def read_soft(self, rows: np.ndarray) -> SoftLabels:
        """Class scores of the regions of images, at most `max_regions` each, one after the other.

        Args:
            rows: [n] int64.

        Raises:
            IndexError, VTLMError: as ``store[row]``.
        """
        parts = []
        for row in rows.tolist():
            shard, start, end = self._span(row)
            with unreadable(f"{self.paths[shard]}: row {row}"):
                parts.append(self._handle(shard).soft(self._soft_names, start, end))
        probabilities = np.concatenate([np.zeros((0, self.num_soft), np.float16), *(one[0] for one in parts)])
        if len(self._soft_names) < 2:
            return SoftLabels(probabilities, None)
        return SoftLabels(
            probabilities, np.concatenate([np.zeros((0, self.num_soft), np.int16), *(one[1] for one in parts)])
        )

    def read_rows(self, rows: np.ndarray, features: np.ndarray | None, boxes: np.ndarray) -> Iterator[np.ndarray]:
        """The regions of images without scores: each time features and boxes of one more are where they belong.

        Args:
            rows: [n] int64, of the images.
            features: [n, W, D], contiguous, of the store's dtype, W at least the most regions of an image; the first
                rows of each image are written; None: they are not read.
            boxes: [n, W, 4] float32, contiguous, the same.

        Yields:
            labels of each image, [R] int16.

        Raises:
            IndexError, VTLMError: as ``store[row]``.
        """
        width = boxes.shape[1]
        labels = np.empty((len(rows), width), np.int16)
        arrays = {"features": features, "boxes": boxes, "labels": labels}
        outs = {name: memoryview(one.reshape(-1, *one.shape[2:])) for name, one in arrays.items() if one is not None}
        of_shard, parts = -1, []
        for place, row in enumerate(rows.tolist()):
            shard, start, end = self._span(row)
            try:
                if shard != of_shard:
                    handle = self._handle(shard)
                    of_shard, parts = shard, [(handle.rows(name), out) for name, out in outs.items()]
                for stored, out in parts:
                    stored.read_into(start, end, out, place * width)
            except DAMAGE:
                with unreadable(f"{self.paths[shard]}: row {row}"):
                    raise
            yield labels[place, : end - start]

    def read_scores(self, rows: np.ndarray) -> Iterator[np.ndarray]:
        """The scores of the regions of images, [R] float32 each.

        Raises:
            IndexError, VTLMError: as ``store[row]``.
        """
        for row in rows.tolist():
            shard, start, end = self._span(row)
            with unreadable(f"{self.paths[shard]}: row {row}"):
                scores = self._handle(shard).scores[start:end]
            yield scores

    def _span(self, row: int) -> tuple[int, int, int]:
        """Shard of an image, and its regions in there: first, and one behind the last."""
        shard = self._shard(row)
        start, end = self._offsets.item(row + shard), self._offsets.item(row + shard + 1)
        return shard, start, end if self.max_regions is None else min(end, start + self.max_regions)

    def close(self) -> None:
        """Close the files that this process has open; the next access opens them again."""
        for handle in self._handles.values():
            handle.close()
        self._handles = {}

    def check_soon(self) -> None:
        """Look at the open files again at the next read."""
        self._check_at = 0.0

    def _shard(self, row: int) -> int:
        if not 0 <= row < self.num_images:
            raise IndexError(f"row {row}, the store has {self.num_images} images")
        return bisect.bisect_right(self._bounds, row) - 1

    def _handle(self, shard: int) -> StoreFile:
        """The open file of a shard in this process.

        A forked child inherits its parent's handles (fairseq reads the first batch before it forks). They are
        closed, not just dropped: HDF5 would otherwise share the parent's file descriptor with the new handle.
        """
        now = time.monotonic()
        if self._pid == os.getpid() and now < self._check_at and (handle := self._handles.get(shard)) is not None:
            return handle
        with _opening:
            if self._pid != os.getpid():
                self.close()
                self._pid = os.getpid()
            handle = self._handles.get(shard)
            if handle is None:
                while len(self._handles) >= MAX_OPEN_FILES:  # a thread that reads one of them keeps it open
                    self._handles.pop(next(iter(self._handles)))
                handle = self._handles[shard] = StoreFile(self.paths[shard], *self._files[shard])
            if now >= self._check_at:
                self._check_at = now + _CHECK_SECONDS
                for opened in self._handles.values():
                    opened.check()
        return handle

    def _read_ids(self, shard: int) -> np.ndarray:
        with unreadable(self.paths[shard]):
            return read_ids(self._handle(shard).file["ids"])

    def _name(self) -> str:
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handles": {}, "_index": None, "_pid": -1, "_check_at": 0.0}


def _places(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of ids among sorted ones, and which of them are there."""
    at = np.searchsorted(known, wanted)
    found = np.zeros(len(wanted), dtype=bool)
    inside = at < len(known)
    found[inside] = known[at[inside]] == wanted[inside]
    return at, found


def say_beyond(beyond: tuple[int, int], max_regions: int) -> str:
    """What `RegionStore.beyond` found, for logs: "8,803 of 21,510 regions (41 %) lie beyond --max-regions 36"."""
    cut, total = beyond
    return f"{cut:,} of {total:,} regions ({100 * cut / max(1, total):.0f} %) lie beyond --max-regions {max_regions}"


def identity(header: StoreHeader) -> Detector:
    """Who made the regions of a file."""
    return Detector.of(header.attributes["detector"], header.class_names)


def _check_agree(first: StoreHeader, other: StoreHeader) -> None:
    pair = f"{other.path} does not fit {first.path}"
    if other.feature_dim != first.feature_dim:
        raise VTLMError(f"{pair}: features are {other.feature_dim} and {first.feature_dim} wide; remake one of them")
    if other.dtype != first.dtype:
        raise VTLMError(f"{pair}: features are {other.dtype} and {first.dtype}; remake one with the other --dtype")
    if other.class_names != first.class_names:
        raise VTLMError(f"{pair}: class_names differ; remake one with the --class-names of the other")
    if (other.num_soft, other.soft_names) != (first.num_soft, first.soft_names):
        raise VTLMError(
            f"{pair}: {other.num_soft} and {first.num_soft} class scores a region; remake one with the other's "
            "--soft-labels"
        )
