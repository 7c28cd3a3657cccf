"""``--regions-on-device``: features lie in a table on the device, and batches hold places in it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.regions.store import Regions, RegionStore
from vtlm_fairseq.terminal import get_logger

logger = get_logger(__name__)

TABLE = "region_table"
"""Key of a batch whose features are places: the split in whose table they are."""

_BLOCK = 256  # images


class RegionPlaces:
    """A region store whose features are places of regions in a table, [R, 1] int64. Place 0 is a row of zeros.

    What is done to features in a batch (padding by 0, masking by 0, giving them to another region) is done to places.

    Args:
        store: the region store.
        rows: of the images that have a place, repeats allowed.

    Attributes:
        images: their rows, each once, in the order of the table.
        size: rows of the table.
    """

    feature_dim = 1
    dtype = np.dtype(np.int64)

    def __init__(self, store: RegionStore, rows: np.ndarray) -> None:
        self.of = store
        self.paths, self.counts, self.check_soon, self.image_id, self.read_scores, self.class_names = (
            store.paths, store.counts, store.check_soon, store.image_id, store.read_scores, store.class_names,
        )  # fmt: skip
        self.num_soft, self.num_classes, self.read_soft = store.num_soft, store.num_classes, store.read_soft
        self.images = np.unique(rows)
        counts = store.counts(self.images)
        self._first = np.zeros(len(store), dtype=np.int64)
        self._first[self.images] = 1 + np.cumsum(counts) - counts
        self.size = 1 + int(counts.sum())

    def read_rows(self, rows: np.ndarray, features: np.ndarray, boxes: np.ndarray) -> Iterator[np.ndarray]:
        """As that of the store."""
        labels = self.of.read_rows(rows, None, boxes)
        for place, first, some in zip(features, self._first[rows].tolist(), labels, strict=True):
            place[: len(some), 0] = np.arange(first, first + len(some))
            yield some

    def __getitem__(self, row: int) -> Regions:
        """The regions of an image, without scores."""
        count = int(self.counts(np.array([row]))[0])
        features, boxes = np.empty((1, count, 1), dtype=self.dtype), np.empty((1, count, 4), dtype=np.float32)
        (labels,) = self.read_rows(np.array([row]), features, boxes)
        return Regions(features[0], boxes[0], labels.astype(np.int64), scores=boxes[0, :0, 0])


class RegionTables:
    """The tables of the splits of a task."""

    def __init__(self) -> None:
        self._stores: dict[str, RegionPlaces] = {}
        self._tables: dict[str, Tensor] = {}

    def add(self, regions: LineRegions) -> None:
        """Let the batches of a split hold places; its table, of all images that its lines have, is made by `load`."""
        self._tables.pop(regions.split, None)
        chosen = regions.rows if regions.order != "none" else regions.rows[:0]
        regions.store = self._stores[regions.split] = RegionPlaces(regions.store, chosen)

    def load(self, device: torch.device) -> None:
        """Make the tables that are not on the device yet.

        Raises:
            VTLMError: one does not fit, or a feature or box is not finite.
        """
        for split, places in self._stores.items():
            if split not in self._tables or self._tables[split].device != device:
                self._tables[split] = _table(places, split, device)

    def gather(self, sample: dict) -> dict:
        """A batch with the features that it holds the places of, where it is; the host does not wait.

        Raises:
            VTLMError: it does not hold places; or as `load`.
        """
        net_input = sample["net_input"]
        places, boxes = net_input["features"], net_input["boxes"]
        if places.dtype != torch.int64 or places.size(2) != 1:
            raise VTLMError(
                f"batches of {sample[TABLE]} hold features where --regions-on-device has places in a table: a dataset "
                "of your own changes them; leave --regions-on-device out"
            )
        self.load(places.device)
        table = self._tables[sample[TABLE]]

        def look_up(places: Tensor) -> Tensor:
            features = F.embedding(places.squeeze(-1), table)
            # as the trainer makes all of float32 with --fp16 and --bf16
            return features.to(boxes.dtype) if features.dtype == torch.float32 else features

        whole = {name: value for name, value in sample.items() if name != TABLE}
        whole["net_input"] = {**net_input, "features": look_up(places)}
        if "features" in (predicted := sample.get("predicted", {})):
            whole["predicted"] = {**predicted, "features": look_up(predicted["features"])}
        return whole


def _table(places: RegionPlaces, split: str, device: torch.device) -> Tensor:
    """[size, D] in the stored precision, read in blocks."""
    store = places.of
    need, free = places.size * store.feature_dim * store.dtype.itemsize, free_bytes(device)
    if need > free:
        raise VTLMError(
            f"{', '.join(store.paths)}: the features of {split} take {need / 1e9:.2f} GB, {device} has "
            f"{free / 1e9:.2f} GB free; leave --regions-on-device out, or lower --max-regions"
        )
    values = torch.from_numpy(np.zeros((1, store.feature_dim), store.dtype))
    table = values.new_empty((places.size, store.feature_dim), device=device)
    table[:1] = values
    regions, filled = LineRegions(store, places.images, order="given", seed=0, split=split), 1
    for start in range(0, len(regions), _BLOCK):
        block = regions.read(list(range(start, min(start + _BLOCK, len(regions)))))
        values = torch.from_numpy(block.features[~block.padding])
        table[filled : filled + len(values)] = values.to(device)
        filled += len(values)
    logger.info("%s: features of %d images on %s, %.2f GB", split, len(regions), device, need / 1e9)
    return table


def free_bytes(device: torch.device) -> float:
    """Bytes that are free; unlimited where the system does not say."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), float("inf"))
