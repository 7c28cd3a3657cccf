"""Batches as the datasets make them: arrays in one that a loader's worker hands over as it is."""

from collections.abc import Sequence

import numpy as np
import torch

from vtlm_fairseq.data.shared import empty_batch


def stack_padded(arrays: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """B arrays of [up to ``length``, D] below each other, each filled up with zeros: B x length x D."""
    stacked = empty_batch((len(arrays), length, arrays[0].shape[1]), arrays[0].dtype)
    for place, array in zip(stacked, arrays, strict=True):
        place[: len(array)] = array
        place[len(array) :] = 0
    return torch.from_numpy(stacked)
