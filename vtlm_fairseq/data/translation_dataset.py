"""Sentence pairs with regions for translation (paper, section 2.4)."""

import numpy as np
import torch
from fairseq.data import LanguagePairDataset

from vtlm_fairseq.data.batching import FAULT, CaptionsDataset
from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch
from vtlm_fairseq.data.shared import send_small_by_value


class MultimodalTranslationDataset(CaptionsDataset, LanguagePairDataset):
    """fairseq's LanguagePairDataset whose sources begin with ``</s>``, and the regions of each line's image.

    Args:
        regions: regions by line, or None for text only.
        args, kwargs: as LanguagePairDataset.
    """

    def __init__(self, *args, regions: LineRegions | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.regions = regions
        self._region_counts = np.zeros(len(self), dtype=np.int64) + self.region_counts()
        self.src_sizes = self.src_sizes + 1  # the leading </s>
        self.sizes = self.src_sizes if self.tgt_sizes is None else np.vstack((self.src_sizes, self.tgt_sizes)).T

    @classmethod
    def from_pair(cls, pair: LanguagePairDataset, *, regions: LineRegions | None, shuffle: bool):
        """Take over what fairseq's loader read (it has no place for another class)."""
        return cls(
            pair.src,
            pair.src_sizes,
            pair.src_dict,
            pair.tgt,
            pair.tgt_sizes,
            pair.tgt_dict,
            left_pad_source=False,
            left_pad_target=False,
            shuffle=shuffle,
            pad_to_multiple=pair.pad_to_multiple,
            regions=regions,
        )

    def set_epoch(self, epoch: int) -> None:
        """Shuffled regions of training change with the epoch."""
        super().set_epoch(epoch)
        if self.regions is not None:
            self.regions.set_epoch(epoch)

    def __getitem__(self, index: int) -> dict:
        """LanguagePairDataset's item with the leading ``</s>`` and ``regions``."""
        item = super().__getitem__(index)
        item["source"] = torch.cat([item["source"].new_tensor([self.eos]), item["source"]])
        self.read_regions(int(index), item)
        return item

    def collater(self, samples: list[dict], pad_to_length=None) -> dict:
        """LanguagePairDataset's batch; ``net_input`` also has ``features boxes region_padding_mask``, and ``padded``,
        whether there is any padding in the source."""
        batch = super().collater(samples, pad_to_length=pad_to_length)
        if not batch:
            return batch
        if self.regions is not None:
            fault = self.first_fault(samples)
            if fault is not None:
                batch[FAULT] = fault
            else:
                by_id = {item["id"]: item["regions"] for item in samples}  # fairseq sorts the batch by source length
                regions = RegionsBatch.of([by_id[i] for i in batch["id"].tolist()], self.regions.width)
                self.add_regions(batch, regions)
        self.say_padding(batch["net_input"])
        return send_small_by_value(batch)

    def num_tokens(self, index: int) -> int:
        """Cost of an example for ``--max-tokens``: the longer of (source words and regions) and target words."""
        return int(self.num_tokens_vec(np.array([index]))[0])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        """The same for many examples."""
        sizes = self.src_sizes[indices] + self._region_counts[indices]
        return sizes if self.tgt_sizes is None else np.maximum(sizes, self.tgt_sizes[indices])

    def ordered_indices(self) -> np.ndarray:
        """Indices sorted by source positions (words and regions), then by target words."""
        indices = np.random.permutation(len(self)) if self.shuffle else np.arange(len(self))
        if self.tgt_sizes is not None:
            indices = indices[np.argsort(self.tgt_sizes[indices], kind="stable")]
        sizes = self.src_sizes[indices] + self._region_counts[indices]
        return indices[np.argsort(sizes, kind="stable")]
