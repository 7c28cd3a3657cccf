"""Masked examples of pre-training that were made together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vtlm_fairseq.data.batching import FAULT, CaptionsDataset
from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch
from vtlm_fairseq.data.masking import RegionDraw, cut

COLUMNS = ("tokens", "target", "positions", "langs")


@dataclass
class Examples(Sequence[dict]):
    """B examples, their arrays one behind the other; one alone is the dict that the dataset gives for its index.

    Attributes:
        ids: [B].
        lengths: [B] tokens of each.
        columns: by name, `COLUMNS`, [n] with n the sum of lengths.
        regions: theirs; None: they have none.
        draw: of all their regions.
        fault: why their regions cannot be read.
    """

    ids: list[int]
    lengths: np.ndarray
    columns: dict[str, np.ndarray]
    regions: RegionsBatch | None = None
    draw: RegionDraw | None = None
    fault: str | None = None

    @classmethod
    def of(cls, items: Sequence[dict], regions: LineRegions | None) -> "Examples":
        """Join examples of a dataset with such regions."""
        joined = cls(
            ids=[item["id"] for item in items],
            lengths=np.array([len(item["tokens"]) for item in items]),
            columns={name: np.concatenate([item[name] for item in items]) for name in COLUMNS},
            fault=CaptionsDataset.first_fault(items),
        )
        if joined.fault is None and regions is not None:
            joined.regions = RegionsBatch.of([item["regions"] for item in items], regions.width)
            joined.draw = RegionDraw(*map(np.concatenate, zip(*(item["draw"] for item in items), strict=True)))
        return joined

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> dict:
        item = {"id": self.ids[place], **{name: cut(self.lengths, self.columns[name], place) for name in COLUMNS}}
        if self.fault is not None:
            item[FAULT] = self.fault
        elif self.regions is not None:
            item["regions"] = self.regions[place]
            item["draw"] = RegionDraw(*(cut(self.regions.counts, one, place) for one in self.draw))
        return item
