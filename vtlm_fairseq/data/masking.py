"""Which words and regions are predicted, and what their inputs become (paper, section 2.2, "Masking").

Every draw depends on (seed, epoch, example) alone, so masks do not depend on workers, on the composition of a
batch or on resuming. Words and regions have generators of their own and are independent.
"""

from dataclasses import dataclass

import numpy as np

WORDS, REGIONS = 0, 1  # streams
VALIDATION_SEED = 1
"""Of the masks of validation, in every run: the same weights have the same figures."""
MASKS_VERSION = 2
"""Of the masks of validation. In version 1 their seed was that of the training."""


@dataclass(frozen=True)
class MaskingRates:
    """Shares of one stream: what is selected, and of that, what is kept or replaced at random (the rest: masked)."""

    select: float
    keep: float
    random: float

    def draw(self, rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draw for ``count`` items.

        Returns:
            three boolean arrays [count]: selected; masked; replaced at random (the last
            two are subsets of the first; what is in neither is kept).
        """
        selected = rng.random(count) < self.select
        kind = rng.random(count)
        random = selected & (kind < self.random)
        masked = selected & (kind >= self.random + self.keep)
        return selected, masked, random


def generator(*, seed: int, epoch: int, index: int, stream: int) -> np.random.Generator:
    """The generator of one example's stream in one epoch (epoch 0: validation and test)."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, epoch, index, stream))))


def mask_words(
    tokens: np.ndarray,
    *,
    maskable: np.ndarray,
    rates: MaskingRates,
    mask_idx: int,
    pad_idx: int,
    random_words: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Mask the words of a sentence pair.

    Args:
        tokens: [T] int64.
        maskable: [T] bool, False at ``</s>``.
        rates: shares.
        mask_idx: id of ``<mask>``.
        pad_idx: target where nothing is predicted.
        random_words: ids that a random word is drawn from, uniformly.
        rng: the example's generator.

    Returns:
        input [T], target [T].
    """
    selected, masked, random = rates.draw(rng, len(tokens))
    replacements = random_words[rng.integers(len(random_words), size=len(tokens))]
    selected &= maskable
    source = tokens.copy()
    source[masked & maskable] = mask_idx
    source[random & maskable] = replacements[random & maskable]
    return source, np.where(selected, tokens, pad_idx)


@dataclass(frozen=True)
class RegionDraw:
    """What happens to the R regions of one example.

    selected, masked, random: [R] bool as in :meth:`MaskingRates.draw`; donor: [R] float within [0, 1), the place
    of a random region's donor among all real regions of the micro-batch.
    """

    selected: np.ndarray
    masked: np.ndarray
    random: np.ndarray
    donor: np.ndarray


def draw_regions(count: int, *, rates: MaskingRates, rng: np.random.Generator) -> RegionDraw:
    """Draw for the ``count`` regions of an example."""
    selected, masked, random = rates.draw(rng, count)
    return RegionDraw(selected, masked, random, rng.random(count))
