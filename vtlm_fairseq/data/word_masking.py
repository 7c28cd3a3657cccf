"""Strategies of masking words, by name (``--word-masking``); one of your own registers from a ``--user-dir``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from vtlm_fairseq.data.caption_words import CaptionWords, ClassNames
from vtlm_fairseq.data.masking import WORDS, MaskingRates, Seeds, cut, mask_words, replace_words, side_by_side
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.registry import Registry


class Symbols(NamedTuple):
    """Ids that strategies need.

    Attributes:
        mask: of ``<mask>``.
        pad: target where nothing is predicted.
        words: [W] ids of real words.
        text: where words begin; None where no strategy reads it.
        names: words that name classes of regions; None where no strategy reads them.
    """

    mask: int
    pad: int
    words: np.ndarray
    text: CaptionWords | None = None
    names: ClassNames | None = None


class Pair(NamedTuple):
    """What a strategy sees of an example.

    Attributes:
        tokens: [T] int64, ``</s> s </s> </s> t </s>``.
        maskable: [T] bool, True at real words.
        labels: [R] int64, classes of its regions; R is 0 where it has none, or none are read.
        nouns: [P, 4] int64, a noun and its translation each: sub-words ``tokens[a:b]`` and ``tokens[c:d]``; P is 0
            where the strategy does not read them.
        visible: [R] bool, True at regions that are neither masked nor replaced.
        epoch: from 1; 0 in validation.
    """

    tokens: np.ndarray
    maskable: np.ndarray
    labels: np.ndarray
    nouns: np.ndarray
    visible: np.ndarray
    epoch: int


@dataclass
class Pairs(Sequence[Pair]):
    """B examples; their tokens stand one behind the other, and so do their labels.

    Attributes:
        lengths: [B] tokens of each.
        tokens, maskable: [n], n the sum of lengths.
        counts: [B] regions of each.
        labels: [m], m the sum of counts.
        nouns: [P, 4] of each.
        visible: [m].
        epoch: of all.
    """

    lengths: np.ndarray
    tokens: np.ndarray
    maskable: np.ndarray
    counts: np.ndarray
    labels: np.ndarray
    nouns: Sequence[np.ndarray]
    visible: np.ndarray
    epoch: int

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, place: int) -> Pair:
        tokens, maskable = (cut(self.lengths, values, place) for values in (self.tokens, self.maskable))
        labels, visible = (cut(self.counts, values, place) for values in (self.labels, self.visible))
        return Pair(tokens, maskable, labels, self.nouns[place], visible, self.epoch)


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
    reads_words = False
    """Whether it needs ``symbols.text``."""
    reads_names = False
    """Whether it needs ``symbols.names``; then it is for models with regions."""

    def __init__(self, symbols: Symbols, rates: MaskingRates, option: Callable[[str], Any] | None = None) -> None:
        self.symbols = symbols
        self.rates = rates

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Input [T] and target [T] (padding where nothing is predicted) of an example.

        They depend on the example and its generator, which seed, epoch and number of the example make, and on nothing
        else; the example's arrays stay as they are.
        """
        raise NotImplementedError

    def predict(self, pair: Pair, selected: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Input and target where these tokens, [T] bool, are predicted.

        Each becomes ``<mask>``, is kept or becomes a random word, in the shares of the options; what is no real word is
        left out.
        """
        return self.replace(pair, self.rates.kinds(selected, rng.random(len(selected))), rng)

    def replace(
        self, pair: Pair, drawn: tuple[np.ndarray, np.ndarray, np.ndarray], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Input and target of what `MaskingRates.draw` gives, with random words from the generator."""
        words = self.symbols.words
        replacements = words[rng.integers(len(words), size=len(pair.tokens))]
        return replace_words(
            pair.tokens, pair.maskable, drawn, replacements, mask_idx=self.symbols.mask, pad_idx=self.symbols.pad
        )

    def mask_all(self, pairs: Pairs, seeds: Seeds) -> tuple[np.ndarray, np.ndarray]:
        """What `mask` gives for some examples, one behind the other.

        Raises:
            VTLMError: it gives too many or too few.
        """
        made = [self.mask(pair, seeds.generator(WORDS, place)) for place, pair in enumerate(pairs)]
        for index, length, masked in zip(seeds.indices, pairs.lengths, made, strict=True):
            if [len(values) for values in masked] != [length, length]:
                raise VTLMError(
                    f"--word-masking: {type(self).__name__}.mask gives {' and '.join(str(len(one)) for one in masked)} "
                    f"values for the {length} tokens of pair {index + 1}; give an input and a target of as many"
                )
        source, target = map(np.concatenate, zip(*made, strict=True))
        return source, target


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

    def mask_all(self, pairs: Pairs, seeds: Seeds) -> tuple[np.ndarray, np.ndarray]:
        """The same draws, of all examples at once."""
        draws, words = seeds.draws(WORDS), self.symbols.words
        if type(self).mask is not RandomWords.mask or draws is None:
            return super().mask_all(pairs, seeds)
        rows, places = side_by_side(pairs.lengths)
        drawn = self.rates.draw_all(draws, pairs.lengths)
        found = np.zeros((len(pairs), int(pairs.lengths.max())), dtype=np.int64)
        asked = np.unique(rows[drawn[2] & pairs.maskable])  # examples that have a random word
        found[asked] = draws.below(len(words), asked, found.shape[1], 2 * pairs.lengths[asked])
        found = found[rows, places]
        source, target = replace_words(
            pairs.tokens, pairs.maskable, drawn, words[found], mask_idx=self.symbols.mask, pad_idx=self.symbols.pad
        )
        for row in np.unique(rows[found < 0]).tolist():  # a number was rejected: one in a million
            again = self.mask(pairs[row], seeds.generator(WORDS, row))
            for values, those in zip((source, target), again, strict=True):
                cut(pairs.lengths, values, row)[:] = those
        return source, target


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
