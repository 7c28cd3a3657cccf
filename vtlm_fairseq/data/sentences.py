"""Sentences of a batch, read together."""

from typing import Any

import numpy as np
from fairseq.data.indexed_dataset import MMapIndexedDataset, data_file_path, index_file_path

from vtlm_fairseq.data.masking import side_by_side

_HEAD = 26  # bytes of an index file before the sizes of the sentences, int32 each; then where each begins, int64


class Sentences:
    """Sentences of an indexed dataset. Those of fairseq's default one are copied from its file, not made one by one.

    Args:
        dataset: of token ids.
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._mapped = _mapped(dataset) if type(dataset) is MMapIndexedDataset else None

    def __reduce__(self) -> tuple:
        return Sentences, (self._dataset,)

    def read(self, lines: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of some lines, [B], one sentence behind the other, [n] int64, and how many each has, [B] int64."""
        if self._mapped is None:
            found = [self._dataset[line].numpy() for line in lines.tolist()]
            return np.concatenate(found), np.array([len(one) for one in found])
        tokens, starts = self._mapped
        sizes = self._dataset.sizes[lines].astype(np.int64)
        rows, places = side_by_side(sizes)
        return tokens[(starts[lines] // tokens.itemsize)[rows] + places].astype(np.int64), sizes


def _mapped(dataset: MMapIndexedDataset) -> tuple[np.ndarray, np.ndarray] | None:
    """All tokens of its file, and the byte where each sentence begins; None where the file is not as it should be."""
    path, count = dataset.__getstate__(), len(dataset)  # what it is pickled as
    dtype = np.dtype(MMapIndexedDataset.Index(index_file_path(path)).dtype)
    data = np.asarray(np.memmap(data_file_path(path), np.uint8, "r"))
    starts = np.asarray(np.memmap(index_file_path(path), np.int64, "r", _HEAD + 4 * count, (count,)))
    ends = starts + dataset.sizes * np.int64(dtype.itemsize)
    if ((starts < 0) | (starts % dtype.itemsize > 0) | (ends > len(data))).any():
        return None
    return data[: len(data) // dtype.itemsize * dtype.itemsize].view(dtype), starts
