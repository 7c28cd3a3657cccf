"""What both datasets do alike: keep every example in a batch, and carry faults of a worker to the main process."""

import numpy as np
from fairseq.data import FairseqDataset

from vtlm_fairseq.data.device_regions import TABLE, RegionPlaces
from vtlm_fairseq.data.line_regions import LineRegions, RegionsBatch
from vtlm_fairseq.errors import VTLMError

FAULT = "fault"  # key of an item or a batch that holds an error message instead of data


class CaptionsDataset(FairseqDataset):
    """Base of both datasets."""

    regions: LineRegions | None = None

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Batches are made anew each epoch, from the seed and the epoch.

        fairseq would keep those of the first epoch of the process, and a resumed run would have others than an
        uninterrupted one.
        """
        return False

    def batch_by_size(self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1):
        """As fairseq's, without loss.

        fairseq's main branch discards a last batch whose size is not a multiple of
        ``--required-batch-size-multiple`` (8 by default), in training, validation and generation alike. Batches
        are contiguous, so what is missing is the tail of the indices.
        """
        if len(indices) == 0:
            return []
        costs = self.num_tokens_vec(np.asarray(indices))
        if max_tokens is not None and costs.max() > max_tokens:
            line = self.place(indices[costs.argmax()])
            raise VTLMError(
                f"pair {line} costs {costs.max()} tokens (words and regions), --max-tokens is {int(max_tokens)}; "
                "raise --max-tokens, or lower --max-regions"
            )
        batches = list(super().batch_by_size(indices, max_tokens, max_sentences, required_batch_size_multiple))
        done = sum(map(len, batches))
        return batches if done == len(indices) else [*batches, np.asarray(indices)[done:]]

    def place(self, index: int) -> str:
        """Where an example stands in its text, for messages: its line, from 1."""
        return str(int(index) + 1)

    def region_counts(self) -> np.ndarray | int:
        """[N] regions of each example that count for ``--max-tokens``; 0 without regions."""
        return 0 if self.regions is None else self.regions.counts()

    def read_regions(self, index: int, item: dict) -> None:
        """Put the example's regions into the item, or the fault: an exception would lose its message in a worker."""
        if self.regions is not None:
            try:
                item["regions"] = self.regions[index]
            except VTLMError as error:
                item[FAULT] = str(error)

    def add_regions(self, batch: dict, regions: RegionsBatch) -> None:
        """Add ``features boxes region_padding_mask`` to the batch's ``net_input``."""
        batch["net_input"].update(regions.collated())
        if isinstance(self.regions.store, RegionPlaces):
            batch[TABLE] = self.regions.split

    @staticmethod
    def say_padding(net_input: dict) -> None:
        """Add ``padded``: whether any word or region of the source is padding."""
        regions = net_input.get("region_padding_mask")
        words = int(net_input["src_lengths"].numpy().min()) < net_input["src_tokens"].size(1)
        net_input["padded"] = words or (regions is not None and bool(regions.numpy().any()))

    @staticmethod
    def first_fault(items: list[dict]) -> str | None:
        """The first fault among items."""
        return next((item[FAULT] for item in items if FAULT in item), None)


def raise_fault(sample: dict) -> None:
    """End the command with one line if a batch carries a fault. For the steps of the tasks."""
    if sample and FAULT in sample:
        raise SystemExit(f"error: {sample[FAULT]}")
