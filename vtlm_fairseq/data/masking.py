"""Which words and regions are predicted, and what their inputs become (paper, section 2.2, "Masking").

Every draw depends on (seed, epoch, example) alone, so masks do not depend on workers, on the composition of a
batch or on resuming. Words and regions have generators of their own and are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from vtlm_fairseq.data.draws import Draws, make_draws

WORDS, REGIONS = 0, 1  # streams
_FEW = 8  # examples: generators of their own are faster
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
        return self.split(rng.random(count), rng.random(count))

    def draw_all(self, draws: Draws, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `draw` gives for so many items of each of some generators, [n] with n the sum of counts."""
        rows, places = side_by_side(counts)
        chance = draws.uniform(np.arange(len(counts))[:, None], np.arange(counts.max(initial=0)))[rows, places]
        kind = np.zeros(len(rows))
        asked = np.flatnonzero(chance < self.select)
        kind[asked] = draws.uniform(rows[asked], places[asked] + counts[rows[asked]])
        return self.split(chance, kind)

    def split(self, chance: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `draw` makes of its numbers within [0, 1)."""
        return self.kinds(chance < self.select, kind)

    def kinds(self, selected: np.ndarray, kind: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What `draw` makes of its second numbers, of items that are selected or not."""
        random = selected & (kind < self.random)
        masked = selected & (kind >= self.random + self.keep)
        return selected, masked, random


@dataclass(frozen=True)
class Seeds:
    """What the draws of some examples depend on.

    Attributes:
        seed, epoch: as `generator` takes them.
        indices: [B] the examples.
    """

    seed: int
    epoch: int
    indices: Sequence[int]
    _made: list[Draws] = field(default_factory=list, init=False, repr=False, compare=False)

    def generator(self, stream: int, place: int) -> np.random.Generator:
        """Of the example in a place."""
        return generator(seed=self.seed, epoch=self.epoch, index=self.indices[place], stream=stream)

    def draws(self, stream: int) -> Draws | None:
        """The numbers of the generators of all; None where one's seed is too large for that, or they are too few."""
        if len(self.indices) < _FEW or max(self.seed, self.epoch, *self.indices) >= 1 << 32:
            return None
        if not self._made:  # cached_property of Python 3.11 has a lock, which a process forked meanwhile never gets
            indices = np.array(self.indices)
            self._made[:] = make_draws(seed=self.seed, epoch=self.epoch, indices=indices, streams=(WORDS, REGIONS))
        return self._made[stream]


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
    drawn = rates.draw(rng, len(tokens))
    replacements = random_words[rng.integers(len(random_words), size=len(tokens))]
    return replace_words(tokens, maskable, drawn, replacements, mask_idx=mask_idx, pad_idx=pad_idx)


def replace_words(
    tokens: np.ndarray,
    maskable: np.ndarray,
    drawn: tuple[np.ndarray, np.ndarray, np.ndarray],
    replacements: np.ndarray,
    *,
    mask_idx: int,
    pad_idx: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Input and target of tokens for which `MaskingRates.draw` has drawn, and a random word each; all are [T]."""
    selected, masked, random = (one & maskable for one in drawn)
    source = tokens.copy()
    source[masked] = mask_idx
    source[random] = replacements[random]
    return source, np.where(selected, tokens, pad_idx)


class RegionDraw(NamedTuple):
    """What happens to R regions.

    selected, masked, random: [R] bool as in :meth:`MaskingRates.draw`: what is selected is predicted. A strategy may
    mask other regions too. donor: [R] float within [0, 1), the place
    of a random region's donor among all real regions of the micro-batch, 0 for others.
    """

    selected: np.ndarray
    masked: np.ndarray
    random: np.ndarray
    donor: np.ndarray


def draw_regions(counts: np.ndarray, *, rates: MaskingRates, seeds: Seeds) -> RegionDraw:
    """Draw for the regions of examples, of which each has so many; [n] with n the sum of counts."""
    draws = seeds.draws(REGIONS)
    if draws is None:
        parts = []
        for place, count in enumerate(counts.tolist()):
            rng = seeds.generator(REGIONS, place)
            *drawn, chance = *rates.draw(rng, count), rng.random(count)
            parts.append((*drawn, np.where(drawn[2], chance, 0)))
        return RegionDraw(*map(np.concatenate, zip(*parts, strict=True)))
    drawn = rates.draw_all(draws, counts)
    rows, places = side_by_side(counts)
    donor, asked = np.zeros(len(rows)), np.flatnonzero(drawn[2])
    donor[asked] = draws.uniform(rows[asked], places[asked] + 2 * counts[rows[asked]])
    return RegionDraw(*drawn, donor)


def side_by_side(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of ``counts`` things of each of B examples, all in one row: whose each is [n], and its place there [n]."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def cut(counts: np.ndarray, values: np.ndarray, example: int) -> np.ndarray:
    """Those of an example, as a view, of ``counts`` values of each example in one row."""
    start = int(counts[:example].sum())
    return values[start : start + counts[example]]
