"""Where a batch is predicted, as lists of places: a device can gather by them without telling the host how many."""

import numpy as np
import torch
from torch import Tensor

_MULTIPLE = 8
"""Of the queries of a sentence: attention kernels like it, and fewer lengths occur."""


def predicted_places(masked_tokens: Tensor, selected_regions: Tensor | None = None) -> dict[str, Tensor]:
    """What `list_places` gives, on the device of the masks."""
    regions = None if selected_regions is None else selected_regions.cpu().numpy()
    lists = as_tensors(list_places(masked_tokens.cpu().numpy(), regions))
    return {name: values.to(masked_tokens.device) for name, values in lists.items()}


def as_tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The arrays as tensors that share their memory."""
    return {name: torch.from_numpy(values) for name, values in arrays.items()}


def list_places(
    masked_tokens: np.ndarray, selected_regions: np.ndarray | None = None, first: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What the last layer has to compute.

    Args:
        masked_tokens: B x T, True where a word is predicted.
        selected_regions: B x R, True where a region is predicted; None: no regions.
        first: [k] sentences whose first position is predicted, too; None: nothing is predicted there.

    Returns:
        ``queries`` B x P (int64), positions within ``[text ; regions]``, those of a sentence that are predicted first,
        then position 0; ``words`` [n] and ``regions`` [m] (int64; without regions there is none), places within
        P x B, row-major: in the order of the True elements of the two masks; with ``first`` also ``first`` [k].
    """
    masks = [masked_tokens] if selected_regions is None else [masked_tokens, selected_regions]
    asked = chosen = np.concatenate(masks, axis=1)
    if first is not None:
        chosen = asked.copy()
        chosen[first, 0] = True
    sentences, positions = np.nonzero(chosen)
    counts = chosen.sum(axis=1)
    ranks = np.arange(len(sentences)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, -(-int(counts.max(initial=0)) // _MULTIPLE)) * _MULTIPLE
    queries = np.zeros((len(chosen), width), dtype=np.int64)
    queries[sentences, ranks] = positions
    places = ranks * len(chosen) + sentences
    is_word = positions < masked_tokens.shape[1]
    is_masked = is_word if first is None else is_word & asked[sentences, positions]
    lists = {"queries": queries, "words": places[is_masked]}
    if selected_regions is not None:
        lists["regions"] = places[~is_word]
    if first is not None:
        lists["first"] = first  # position 0 is the first one chosen in a sentence
    return lists
