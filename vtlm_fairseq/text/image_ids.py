"""Image ids by their 64-bit hashes: which of millions are known, and which are held out for validation.

Two of 3.1 million ids share a hash with probability 3e-7.
"""

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import stream_lines
from vtlm_fairseq.regions.schema import decode, read_header

_BLOCK = 1 << 16


def hash_id(image_id: str) -> int:
    """Hash of an image id, the same on every machine, within 0..2**64-1."""
    return int.from_bytes(hashlib.blake2b(image_id.encode("utf-8"), digest_size=8).digest(), "little")


def hash_ids(image_ids: Iterable[str]) -> np.ndarray:
    """Hashes [N] uint64 of ids, in their order; 8 bytes an id are held."""
    hashes = map(hash_id, image_ids)
    parts = [np.empty(0, np.uint64)]
    while len(block := np.fromiter(islice(hashes, _BLOCK), dtype=np.uint64)):
        parts.append(block)
    return np.concatenate(parts)


class KnownIds:
    """A set of image ids, 8 bytes each, with a whole number for each.

    Args:
        hashes: [N] uint64.
        values: [N] whole numbers.
    """

    def __init__(self, hashes: np.ndarray, values: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._values = hashes[order], values[order]

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, image_id: str) -> int | None:
        """The number of an id; None where it is not known."""
        wanted = np.uint64(hash_id(image_id))
        at = int(self._hashes.searchsorted(wanted))
        return int(self._values[at]) if at < len(self._hashes) and self._hashes[at] == wanted else None

    def repeats(self) -> Iterator[tuple[int, int]]:
        """The numbers of each two ids that follow each other and are the same."""
        for at in np.flatnonzero(self._hashes[1:] == self._hashes[:-1]).tolist():
            yield int(self._values[at]), int(self._values[at + 1])


class ImageMap:
    """Image ids by other names of the images, such as URLs, from lines of name and id between a tab.

    Names are held as hashes, ids as bytes.

    Raises:
        VTLMError: unreadable, a line that is not so, or two that give a name different ids (named).
    """

    def __init__(self, path: str) -> None:
        self._path = path
        offsets = array("q")
        self._ids = bytearray()
        hashes = hash_ids(self._noted(offsets))
        self._rows = KnownIds(hashes, np.arange(len(hashes)))
        self._offsets = np.append(np.frombuffer(offsets, dtype=np.int64), len(self._ids))
        for first, second in self._rows.repeats():
            if (one := self._id(first)) != (other := self._id(second)):
                raise VTLMError(
                    f"--image-map {path}: lines {first + 1} and {second + 1} give "
                    f"{next(islice(self.names(), first, None))[:99]!r} two ids, {one!r} and {other!r}; leave one out"
                )

    def _noted(self, offsets: array) -> Iterator[str]:
        for name, image_id in self._lines():
            offsets.append(len(self._ids))
            self._ids += image_id.encode("utf-8")
            yield name

    def _lines(self) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(stream_lines(self._path), start=1):
            name, tab, image_id = line.rpartition("\t")
            if not tab or not name or not image_id.strip():
                raise VTLMError(f"--image-map {self._path} line {number}: not a name and an image id between a tab")
            yield name, image_id.strip()

    def names(self) -> Iterator[str]:
        """All names, read from the file again."""
        return (name for name, _ in self._lines())

    def get(self, name: str) -> str | None:
        """The id of an image; None where the map does not name it."""
        row = self._rows.get(name)
        return None if row is None else self._id(row)

    def _id(self, row: int) -> str:
        return self._ids[self._offsets[row] : self._offsets[row + 1]].decode("utf-8")


def region_counts(paths: Iterable[str]) -> KnownIds:
    """The ids of region stores with the number of regions of each image; features are not read.

    Raises:
        VTLMError: a file is not as the schema says.
    """
    hashes, counts = [], []
    for path in paths:
        header = read_header(path)
        hashes.append(hash_ids(decode(i) for i in header.ids))
        counts.append(np.diff(header.offsets))
    return KnownIds(np.concatenate(hashes), np.concatenate(counts))


class HeldOut:
    """The images of a validation split: those with the smallest hashes, whatever the order of the lines.

    Args:
        image_ids: of all lines; repeats count once.
        count: images to hold out.

    Raises:
        VTLMError: there are not more images than that.
    """

    def __init__(self, image_ids: Iterable[str], count: int) -> None:
        hashes = np.unique(hash_ids(image_ids))
        if not 0 < count < len(hashes):
            raise VTLMError(
                f"--valid-size {count}: there are {len(hashes)} images; at least one must be left on each side"
            )
        self._limit = int(np.partition(hashes, count - 1)[count - 1])

    def __contains__(self, image_id: str) -> bool:
        return hash_id(image_id) <= self._limit
