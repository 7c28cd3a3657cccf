"""Regions of the lines of a split: given, shuffled or hidden (paper, section 3.2, "+shuf")."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch

from vtlm_fairseq.data.masking import cut
from vtlm_fairseq.data.shared import empty_batch
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.checks import FIND_ALL, bad_boxes, not_finite, within_image
from vtlm_fairseq.regions.soft_labels import SoftLabels
from vtlm_fairseq.regions.store import Regions, RegionStore


class LineRegions:
    """Regions by line number, joined to the text by image id.

    Args:
        store: the region store.
        rows: [N] int64, the store's row of each line.
        order: ``given``; ``shuffle``: every line gets the regions of another image id; ``none``: no line has any.
        seed: of the derangement.
        split: name of the split, part of the derangement's seed.
        redraw: whether the derangement changes with the epoch (training).
        pad_to_multiple: R of a batch is a multiple of it, or the most regions that any line has; 1 where none has any.

    Raises:
        VTLMError: ``shuffle`` with a single image.
    """

    def __init__(
        self,
        store: RegionStore,
        rows: np.ndarray,
        *,
        order: str,
        seed: int,
        split: str,
        redraw: bool = False,
        pad_to_multiple: int = 1,
    ):
        self.store = store
        self.rows = rows
        self.order = order
        self.seed = seed
        self.split = split
        self.redraw = redraw
        self.pad_to_multiple = pad_to_multiple
        pads = pad_to_multiple > 1 and order != "none"
        self._most = int(store.counts(rows).max(initial=0)) if pads else 0
        self._images = np.unique(rows) if order == "shuffle" else rows[:0]
        if order == "shuffle" and len(self._images) < 2:
            raise VTLMError(
                f"{split}: all lines are of {len(self._images)} image, and shuffled regions are another one's; take "
                "lines of two images or more, or hide the regions (--region-order none)"
            )
        self.set_epoch(1)

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's derangement: image k gives its place to the next one on a random cycle of all images."""
        self.store.check_soon()
        self._line_rows = self.rows
        if self.order == "shuffle":
            epoch = epoch if self.redraw else 0
            rng = np.random.default_rng((self.seed, zlib.crc32(self.split.encode()), epoch))
            cycle = rng.permutation(len(self._images))
            other = np.empty_like(self._images)
            other[cycle] = self._images[np.roll(cycle, -1)]
            self._line_rows = other[np.searchsorted(self._images, self.rows)]

    @property
    def line_rows(self) -> np.ndarray:
        """[N] int64: the store's row that each line gets in this epoch."""
        return self._line_rows

    def counts(self) -> np.ndarray:
        """[N] int64: regions of each line, for batching.

        Where the derangement is redrawn, batches outlive it, so this is the largest number that a line can get.
        """
        if self.order == "none":
            return np.zeros(len(self.rows), dtype=np.int64)
        if self.order == "shuffle" and self.redraw:
            return np.full(len(self.rows), self.store.counts(self._images).max())
        return self.store.counts(self._line_rows)

    def counts_of(self, lines: Sequence[int]) -> np.ndarray:
        """[n] int64: regions of some lines in this epoch."""
        if self.order == "none":
            return np.zeros(len(lines), dtype=np.int64)
        return self.store.counts(self._line_rows[lines])

    def width(self, counts: np.ndarray) -> int:
        """R of a batch of lines with so many regions: at least 1, so that the region parameters take part in it."""
        most = max(1, int(counts.max()))
        return max(most, min(-(-most // self.pad_to_multiple) * self.pad_to_multiple, self._most))

    def __getitem__(self, line: int) -> Regions:
        """The regions of a line.

        Raises:
            VTLMError: a feature is not finite, or a box not within the image (names it).
        """
        row = int(self._line_rows[line])
        if self.order == "none":
            return no_regions(self.store.feature_dim, self.store.dtype)
        regions = self.store[row]
        self._check(row, regions)
        return regions

    def read(self, lines: Sequence[int], *, scores: bool = False) -> "RegionsBatch":
        """The regions of some lines, with scores where they are asked for.

        Raises:
            VTLMError: as ``regions[line]``, of the first such line.
        """
        rows = self._line_rows[lines]
        counts = self.counts_of(lines)
        batch = RegionsBatch(counts, self.width(counts), self.store.feature_dim, self.store.dtype)
        if self.order != "none":
            is_finite, labels = _finite_rows(batch.features), []
            for place, some in enumerate(self.store.read_rows(rows, batch.features, batch.boxes)):
                if not is_finite(place):  # while the processor has it at hand
                    raise not_finite(self._where(rows[place]))
                labels.append(some)
            if not within_image(batch.boxes):
                place = next(place for place, boxes in enumerate(batch.boxes) if not within_image(boxes))
                raise bad_boxes(self._where(rows[place]), batch.boxes[place, : counts[place]])
            batch.labels[:] = np.concatenate(labels)
            if scores:
                batch.scores = np.concatenate(list(self.store.read_scores(rows)))
        return batch

    def read_soft(self, lines: Sequence[int]) -> SoftLabels:
        """Class scores of the regions of some lines, one after the other.

        Raises:
            VTLMError: some cannot be right (names the first such image).
        """
        rows = self._line_rows[lines] if self.order != "none" else self._line_rows[:0]
        found = self.store.read_soft(rows)
        for what, bad in found.faults(self.store.num_classes).items():
            if bad.any():
                image = np.repeat(rows, self.store.counts(rows))[bad.argmax()]
                raise VTLMError(f"{self._where(image)}: {what}; {FIND_ALL}")
        return found

    def _check(self, row: int, regions: Regions) -> None:
        if regions.features.size and not _finite_rows(regions.features[None])(0):
            raise not_finite(self._where(row))
        if not within_image(regions.boxes):
            raise bad_boxes(self._where(row), regions.boxes)

    def _where(self, row: int) -> str:
        return f"{', '.join(self.store.paths)}: image {self.store.image_id(int(row))!r}"


def _finite_rows(values: np.ndarray) -> Callable[[int], bool]:
    """A function that says whether no value of a row is infinite or NaN.

    It looks at the bits of float16, many times faster than numpy's test.

    Args:
        values: [n, ...], contiguous and not empty; they may change later.
    """
    rows = values.reshape(len(values), -1)
    if values.dtype != np.float16:
        return lambda row: bool(np.isfinite(rows[row]).all())
    unsigned, signed, largest = rows.view(np.uint16), rows.view(np.int16), np.maximum.reduce

    def is_finite(row: int) -> bool:
        # infinity is 7C00, NaN above it; with the sign bit FC00 and above
        highest = largest(unsigned[row])
        return bool(highest < 0x7C00 or (highest < 0xFC00 and largest(signed[row]) < 0x7C00))

    return is_finite


def no_regions(feature_dim: int, dtype) -> Regions:
    """The regions of an image that has none."""
    return Regions(
        features=np.zeros((0, feature_dim), dtype=dtype),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        scores=np.zeros(0, dtype=np.float32),
    )


class RegionsBatch(Sequence[Regions]):
    """Regions of B lines, padded.

    Args:
        counts: [B] regions of each line.
        width: R.
        feature_dim, dtype: of the features.

    Attributes:
        counts: [B].
        features: B x R x D in the stored dtype; boxes: B x R x 4. Only their padding is set, to 0.
        padding: B x R, True at padding.
        labels: [n], n the sum of counts; not set.
        scores: [n]; [0] where they are not read.
    """

    def __init__(self, counts: np.ndarray, width: int, feature_dim: int, dtype: np.dtype) -> None:
        self.counts = counts
        self.features = empty_batch((len(counts), width, feature_dim), dtype)
        self.boxes = np.empty((len(counts), width, 4), dtype=np.float32)
        self.padding = np.arange(width) >= counts[:, None]
        self.features[self.padding] = 0
        self.boxes[self.padding] = 0
        self.labels = np.empty(int(counts.sum()), dtype=np.int64)
        self.scores = self.boxes[:0, 0, 0]

    @classmethod
    def of(cls, regions: Sequence[Regions], width: Callable[[np.ndarray], int]) -> "RegionsBatch":
        """Pad the regions of some lines to the width for their counts."""
        first, counts = regions[0].features, np.array([len(one.labels) for one in regions])
        batch = cls(counts, width(counts), first.shape[1], first.dtype)
        for place, one in enumerate(regions):
            np.copyto(batch.features[place, : len(one.labels)], one.features, casting="same_kind")
            batch.boxes[place, : len(one.labels)] = one.boxes
        batch.labels[:] = np.concatenate([one.labels for one in regions])
        return batch

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, place: int) -> Regions:
        """The regions of a line, as views; without scores."""
        count = self.counts[place]
        features, boxes = self.features[place, :count], self.boxes[place, :count]
        return Regions(features, boxes, cut(self.counts, self.labels, place), scores=boxes[:0, 0])

    def collated(self) -> dict[str, torch.Tensor]:
        """``features boxes region_padding_mask`` as tensors."""
        return {
            "features": torch.from_numpy(self.features),
            "boxes": torch.from_numpy(self.boxes),
            "region_padding_mask": torch.from_numpy(self.padding),
        }
