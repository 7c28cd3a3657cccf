"""Strategies of masking words, by name (``--word-masking``); one of your own registers from a ``--user-dir``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.data.masking import WORDS, MaskingRates, Seeds, cut, mask_words, replace_words, side_by_side
from vtlm_fairseq.registry import Registry


class Symbols(NamedTuple):
    """Ids that strategies need.

    Attributes:
        mask: of ``<mask>``.
        pad: target where nothing is predicted.
        words: [W] ids of real words.
    """

    mask: int
    pad: int
    words: np.ndarray


class Pair(NamedTuple):
    """What a strategy sees of an example.

    Attributes:
        tokens: [T] int64, ``</s> s </s> </s> t </s>``.
        maskable: [T] bool, True at real words.
        labels: [R] int64, classes of its regions; R is 0 where it has none, or none are read.
        nouns: [P, 4] int64, a noun and its translation each: sub-words ``tokens[a:b]`` and ``tokens[c:d]``; P is 0
            where the strategy does not read them.
    """

    tokens: np.ndarray
    maskable: np.ndarray
    labels: np.ndarray
    nouns: np.ndarray


class WordMasking:
    """Base of the strategies.

    Args:
        symbols: ids.
        rates: shares of ``--mask-prob``, ``--leave-unmasked-prob`` and ``--random-token-prob``.
        option: gives the value of any other option of the task by its field's name; not to be kept, workers get a
            copy of what is.
    """

    reads_nouns = False
    """Whether it needs the tables of ``vtlm-prepare nouns``, which are read for no other."""

    def __init__(self, symbols: Symbols, rates: MaskingRates, option: Callable[[str], Any] | None = None) -> None:
        self.symbols = symbols
        self.rates = rates

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Input [T] and target [T] (padding where nothing is predicted) of an example.

        They depend on the example and its generator, which seed, epoch and number of the example make, and on nothing
        else; the example's arrays stay as they are.
        """
        raise NotImplementedError

    def mask_all(self, pairs: list[Pair], seeds: Seeds) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `mask` gives for some examples."""
        return [self.mask(pair, rng) for pair, rng in zip(pairs, seeds.generators(WORDS), strict=True)]


_STRATEGIES = Registry("--word-masking", "strategies", "--user-dir can register your own")
register_word_masking = _STRATEGIES.register
"""Class decorator: makes a strategy known as ``--word-masking NAME``."""
get_word_masking = _STRATEGIES.get
"""The class of a strategy."""


@register_word_masking("random")
class RandomWords(WordMasking):
    """The paper's: each word by itself is selected in share ``--mask-prob``."""

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Three draws of T numbers each."""
        return mask_words(
            pair.tokens,
            maskable=pair.maskable,
            rates=self.rates,
            mask_idx=self.symbols.mask,
            pad_idx=self.symbols.pad,
            random_words=self.symbols.words,
            rng=rng,
        )

    def mask_all(self, pairs: list[Pair], seeds: Seeds) -> list[tuple[np.ndarray, np.ndarray]]:
        """The same draws, of all examples at once."""
        lengths = np.array([len(pair.tokens) for pair in pairs])
        draws = seeds.draws(WORDS, 2 * int(lengths.max()) + (int(lengths.max()) + 1) // 2)
        if type(self).mask is not RandomWords.mask or draws is None:
            return super().mask_all(pairs, seeds)
        rows, places = side_by_side(lengths)
        length = lengths[rows]
        drawn = self.rates.split(draws.uniform(rows, places), draws.uniform(rows, places + length))
        words = draws.below(len(self.symbols.words), rows, places, 2 * length)
        tokens, maskable = (np.concatenate([pair[k] for pair in pairs]) for k in range(2))
        made = replace_words(
            tokens, maskable, drawn, self.symbols.words[words], mask_idx=self.symbols.mask, pad_idx=self.symbols.pad
        )
        ends = np.cumsum(lengths).tolist()
        found = list(zip(*(cut(ends, one) for one in made), strict=True))
        for row in np.unique(rows[words < 0]).tolist():  # a number was rejected: one in a million
            found[row] = self.mask(pairs[row], seeds.generators(WORDS)[row])
        return found


@register_word_masking("aligned-nouns")
class AlignedNouns(RandomWords):
    """A noun and its translation are hidden, so that of the two languages none tells it, only the image.

    In share ``--aligned-share`` of the pairs that have aligned nouns one of these, all alike, becomes ``<mask>`` in
    both languages, each of its sub-words, and nothing else is masked. All other pairs have the masks of ``random``.
    """

    reads_nouns = True

    def __init__(self, symbols: Symbols, rates: MaskingRates, option: Callable[[str], Any]) -> None:
        super().__init__(symbols, rates, option)
        self.share = option("aligned_share")

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The draws of ``random``, then whether nouns are hidden and which."""
        masked = super().mask(pair, rng)
        if not len(pair.nouns) or rng.random() >= self.share:
            return masked
        a, b, c, d = pair.nouns[rng.integers(len(pair.nouns))]
        hidden = np.zeros(len(pair.tokens), dtype=bool)
        hidden[a:b] = hidden[c:d] = True
        hidden &= pair.maskable
        return np.where(hidden, self.symbols.mask, pair.tokens), np.where(hidden, pair.tokens, self.symbols.pad)
