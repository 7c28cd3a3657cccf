"""Where a batch is predicted, as lists of places: a device can gather by them without telling the host how many."""

import numpy as np
import torch
from torch import Tensor

_MULTIPLE = 8
"""Of the queries of a sentence: attention kernels like it, and fewer lengths occur."""


def predicted_places(masked_tokens: Tensor, selected_regions: Tensor | None = None) -> dict[str, Tensor]:
    """What the last layer has to compute.

    Args:
        masked_tokens: B x T, True where a word is predicted.
        selected_regions: B x R, True where a region's label is predicted; None: no regions.

    Returns:
        ``queries`` B x P (int64), positions within ``[text ; regions]``, those of a sentence that are predicted first,
        then position 0; ``words`` [n] and ``regions`` [m] (int64; without regions there is none), places within
        P x B, row-major: in the order of the True elements of the two masks.
    """
    masks = [masked_tokens] if selected_regions is None else [masked_tokens, selected_regions]
    chosen = torch.cat(masks, dim=1).cpu().numpy()
    sentences, positions = np.nonzero(chosen)
    counts = chosen.sum(axis=1)
    ranks = np.arange(len(sentences)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = max(1, -(-int(counts.max(initial=0)) // _MULTIPLE)) * _MULTIPLE
    queries = np.zeros((len(chosen), width), dtype=np.int64)
    queries[sentences, ranks] = positions
    places = ranks * len(chosen) + sentences
    is_word = positions < masked_tokens.size(1)
    lists = {"queries": queries, "words": places[is_word]}
    if selected_regions is not None:
        lists["regions"] = places[~is_word]
    return {name: torch.from_numpy(values).to(masked_tokens.device) for name, values in lists.items()}
