"""Pairs that get the image of another pair of their batch, for image-text matching."""

import numpy as np

from vtlm_fairseq.data.masking import Seeds

MATCHING = 100  # stream of `Seeds.generator`
SHARE = 0.5


def draw_partners(rows: np.ndarray, counts: np.ndarray, seeds: Seeds) -> np.ndarray:
    """Whose image each example of a batch gets; its own place where it keeps its own.

    Whether it gets another's is the example's own draw, and so is the other's place among those whose image is another
    one and has regions. Where there is none, or it has no regions itself, it keeps its own.

    Args:
        rows: [B], which image each has.
        counts: [B], regions of it.
        seeds: of the examples.

    Returns:
        [B] int64 places in the batch.
    """
    places = np.arange(len(rows))
    chance, choice = np.array([seeds.generator(MATCHING, place).random(2) for place in places]).T
    others = (rows[:, None] != rows) & (counts > 0) & (counts[:, None] > 0)
    found = others.sum(axis=1)
    partners = (others.cumsum(axis=1) > (choice * found).astype(np.int64)[:, None]).argmax(axis=1)
    return np.where((chance < SHARE) & (found > 0), partners, places)
