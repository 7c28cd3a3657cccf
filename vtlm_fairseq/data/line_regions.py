"""Regions of the lines of a split: given, shuffled or hidden (paper, section 3.2, "+shuf")."""

import zlib

import numpy as np
import torch

from vtlm_fairseq.data.shared import empty_batch, stack_padded
from vtlm_fairseq.errors import VTLMError
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

    Raises:
        VTLMError: ``shuffle`` with a single image.
    """

    def __init__(
        self, store: RegionStore, rows: np.ndarray, *, order: str, seed: int, split: str, redraw: bool = False
    ):
        self.store = store
        self.rows = rows
        self.order = order
        self.seed = seed
        self.split = split
        self.redraw = redraw
        self._images = np.unique(rows) if order == "shuffle" else rows[:0]
        if order == "shuffle" and len(self._images) < 2:
            raise VTLMError(
                f"split {split} has {len(self._images)} image, --region-order shuffle needs another one to give; "
                "use --region-order none to hide the regions"
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

    def counts_of(self, lines: list[int]) -> np.ndarray:
        """[n] int64: regions of some lines in this epoch."""
        if self.order == "none":
            return np.zeros(len(lines), dtype=np.int64)
        return self.store.counts(self._line_rows[lines])

    def __getitem__(self, line: int) -> Regions:
        """The regions of a line.

        Raises:
            VTLMError: a feature or box is not finite (names the image).
        """
        row = int(self._line_rows[line])
        if self.order == "none":
            return no_regions(self.store.feature_dim, self.store.dtype)
        regions = self.store[row]
        self._check(row, regions)
        return regions

    def read_into(self, line: int, features: np.ndarray, boxes: np.ndarray) -> Regions:
        """The regions of a line without scores, in the first rows of arrays that have room for them; 0 behind.

        Raises:
            VTLMError: as ``regions[line]``.
        """
        row, labels = int(self._line_rows[line]), np.zeros(0, dtype=np.int64)
        if self.order != "none":
            labels = self.store.read_into(row, features, boxes)
        count = len(labels)
        features[count:], boxes[count:] = 0, 0
        regions = Regions(features[:count], boxes[:count], labels, scores=boxes[:0, 0])
        self._check(row, regions)
        return regions

    def _check(self, row: int, regions: Regions) -> None:
        if not (_all_finite(regions.features) and _all_finite(regions.boxes)):
            raise VTLMError(
                f"{', '.join(self.store.paths)}: image {self.store.image_id(row)!r} holds a feature or box that is "
                "not finite (NaN or infinite); find all such images with: vtlm-regions validate"
            )


def _all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or NaN; of float16 by its bits, many times faster than numpy's test."""
    if values.dtype == np.float16 and values.size:
        # infinity is 7C00, NaN above it; with the sign bit FC00 and above
        bits = values.reshape(-1)
        highest = bits.view(np.uint16).max()
        return bool(highest < 0x7C00 or (highest < 0xFC00 and bits.view(np.int16).max() < 0x7C00))
    return bool(np.isfinite(values).all())


def no_regions(feature_dim: int, dtype) -> Regions:
    """The regions of an image that has none."""
    return Regions(
        features=np.zeros((0, feature_dim), dtype=dtype),
        boxes=np.zeros((0, 4), dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        scores=np.zeros(0, dtype=np.float32),
    )


class RegionsBatch:
    """Room for the regions of some lines, which are read to where the batch will have them.

    Args:
        regions: of all lines.
        lines: of the batch.
    """

    def __init__(self, regions: LineRegions, lines: list[int]) -> None:
        self._regions = regions
        counts = regions.counts_of(lines)
        size = max(1, int(counts.max()))
        self.features = empty_batch((len(lines), size, regions.store.feature_dim), regions.store.dtype)
        self.boxes = np.empty((len(lines), size, 4), dtype=np.float32)
        self.padding = np.arange(size) >= counts[:, None]

    def read(self, place: int, line: int) -> Regions:
        """The regions of the line at a place of the batch."""
        return self._regions.read_into(line, self.features[place], self.boxes[place])

    def collated(self) -> dict[str, torch.Tensor]:
        """As `collate_regions`."""
        return {
            "features": torch.from_numpy(self.features),
            "boxes": torch.from_numpy(self.boxes),
            "region_padding_mask": torch.from_numpy(self.padding),
        }


def collate_regions(regions: list[Regions]) -> dict[str, torch.Tensor]:
    """Pad the regions of a batch.

    Returns:
        ``features`` B x R x D in the stored dtype, ``boxes`` B x R x 4, ``region_padding_mask`` B x R (True at
        padding). R is at least 1, so that the region parameters take part in every batch.
    """
    size = max(1, *(len(r.labels) for r in regions))
    boxes = np.zeros((len(regions), size, 4), dtype=np.float32)
    padding = np.ones((len(regions), size), dtype=bool)
    for i, one in enumerate(regions):
        count = len(one.labels)
        boxes[i, :count] = one.boxes
        padding[i, :count] = False
    return {
        "features": stack_padded([one.features for one in regions], size),
        "boxes": torch.from_numpy(boxes),
        "region_padding_mask": torch.from_numpy(padding),
    }
