"""Strategies of masking words: `random` is the paper's draw for draw, aligned nouns by hand and in shares."""

import numpy as np
import pytest

from tiny import PAPER_RATES, dictionary, line_regions, lm_dataset, sentences
from vtlm_fairseq.data.batching import FAULT
from vtlm_fairseq.data.masking import WORDS, MaskingRates, generator, mask_words
from vtlm_fairseq.data.noun_table import NounTable
from vtlm_fairseq.data.word_masking import AlignedNouns, WordMasking, get_word_masking, register_word_masking
from vtlm_fairseq.data.word_mixture import WordChoice
from vtlm_fairseq.errors import VTLMError

MASK, PAD = 45, 1
EXAMPLES = 10_000


def aligned(share: float, rates: MaskingRates = PAPER_RATES):
    """What a dataset makes the strategy with."""
    return lambda symbols, _: AlignedNouns(symbols, rates, {"aligned_share": share}.get)


def table(*rows, lines: int) -> NounTable:
    return NounTable(np.array(rows, dtype=np.int32).reshape(-1, 5), lines)


def pairs(dataset) -> list:
    items = [dataset[i] for i in range(len(dataset))]
    return [(item["tokens"].tolist(), item["target"].tolist()) for item in items]


def test_random_is_the_draw_of_each_example():
    """Of the example's own generator, regions read or not, and nothing else is drawn before it."""
    source, target = sentences(40, seed=1), sentences(40, seed=2)
    for regions in (None, line_regions([3] * 40)):
        dataset = lm_dataset(source, target, regions=regions, train=True, seed=7)
        dataset.set_epoch(3)
        for i, (tokens, wanted) in enumerate(pairs(dataset)):
            whole = np.concatenate([[2], source[i], [2], target[i]])
            expected = mask_words(
                whole, maskable=(whole >= 4) & (whole < 45), rates=PAPER_RATES, mask_idx=MASK, pad_idx=PAD,
                random_words=np.arange(4, 45), rng=generator(seed=7, epoch=3, index=i, stream=WORDS),
            )  # fmt: skip
            assert (tokens, wanted) == tuple(one.tolist() for one in expected)


def test_a_noun_and_its_translation_by_hand():
    """Whole words of both sides; line 1 has no noun; of line 2 each of two pairs is hidden in some epoch."""
    source = [[10, 11, 12, 2], [13, 2], [14, 15, 2]]
    target = [[20, 21, 2], [22, 2], [23, 24, 25, 2]]
    nouns = table([0, 1, 3, 0, 1], [2, 0, 1, 2, 3], [2, 1, 2, 0, 2], lines=3)
    dataset = lm_dataset(source, target, word_masking=aligned(1, MaskingRates(0, 0, 0)), nouns=nouns, train=True)
    seen = set()
    for epoch in range(1, 20):
        dataset.set_epoch(epoch)
        first, without, two = pairs(dataset)
        assert first == ([2, 10, MASK, MASK, 2, 2, MASK, 21, 2], [1, 1, 11, 12, 1, 1, 20, 1, 1])
        assert without == ([2, 13, 2, 2, 22, 2], [1] * 6)
        seen.add(str(two))
    hidden = ([2, MASK, 15, 2, 2, 23, 24, MASK, 2], [1, 14, 1, 1, 1, 1, 1, 25, 1])
    other = ([2, 14, MASK, 2, 2, MASK, MASK, 25, 2], [1, 1, 15, 1, 1, 23, 24, 1, 1])
    assert seen == {str(hidden), str(other)}


def test_what_is_no_word_stays_and_a_cut_source_loses_its_noun():
    """``<unk>`` (3) and ``<mask>`` are never predicted; spans beyond the end of a cut sentence are left out."""
    nouns = table([0, 0, 2, 0, 2], [1, 1, 3, 0, 1], lines=2)
    rates = MaskingRates(0, 0, 0)
    dataset = lm_dataset([[3, 10, 2], [11, 12, 2]], [[20, MASK, 2], [21, 2]],
                         word_masking=aligned(1, rates), nouns=nouns)  # fmt: skip
    first, cut = pairs(dataset)
    assert first == ([2, 3, MASK, 2, 2, MASK, MASK, 2], [1, 1, 10, 1, 1, 20, 1, 1])
    assert cut == ([2, 11, 12, 2, 2, 21, 2], [1] * 7)


@pytest.mark.slow
def test_shares_of_10000_examples():
    """A share of 0.3 is hidden, each of two pairs in half; all else is what `random` makes of it, bit for bit."""
    source, target = [[10, 11, 12, 2]] * EXAMPLES, [[20, 21, 22, 2]] * EXAMPLES
    rows = [row for line in range(EXAMPLES) for row in ([line, 0, 1, 2, 3], [line, 2, 3, 0, 1])]
    nouns = table(*rows, lines=EXAMPLES)
    found, none = (
        pairs(lm_dataset(source, target, word_masking=aligned(share), nouns=nouns, train=True)) for share in (0.3, 0)
    )
    random = pairs(lm_dataset(source, target, train=True))
    first = ([2, MASK, 11, 12, 2, 2, 20, 21, MASK, 2], [1, 10, 1, 1, 1, 1, 1, 1, 22, 1])
    second = ([2, 10, 11, MASK, 2, 2, MASK, 21, 22, 2], [1, 1, 1, 12, 1, 1, 20, 1, 1, 1])
    hidden = [one == first or one == second for one in found]
    assert all(one == other for one, other, is_hidden in zip(found, random, hidden, strict=True) if not is_hidden)
    chance = 2 * (0.15 * 0.8) ** 2 * 0.85**4  # that random makes one of the two
    share, count = 0.3 + 0.7 * chance, sum(hidden)
    assert abs(count / EXAMPLES - share) < 3 * np.sqrt(share * (1 - share) / EXAMPLES)
    assert abs(found.count(first) / count - 0.5) < 3 * np.sqrt(0.25 / count)
    assert none == random


@pytest.mark.slow
def test_a_mixture_has_its_shares():
    """Nouns are hidden in the mixture's share of the pairs, whatever --aligned-share is."""
    nouns = table(*([line, 0, 1, 0, 1] for line in range(EXAMPLES)), lines=EXAMPLES)

    def hidden(text: str) -> np.ndarray:
        choice = WordChoice.parse(text)
        made = lm_dataset(
            [[10, 2]] * EXAMPLES, [[20, 2]] * EXAMPLES, nouns=nouns, rates=MaskingRates(0, 0, 0), train=True,
            word_masking=lambda symbols, rates: choice.make(symbols, rates, {"aligned_share": 0.5}.get),
        )  # fmt: skip
        return np.array([target != [1] * 6 for _, target in pairs(made)])

    shares = {"aligned-nouns": 0.5, "aligned-nouns:0.8,random:0.2": 0.8, "random:0.6, aligned-nouns:0.4": 0.4}
    for text, share in shares.items():
        assert abs(hidden(text).mean() - share) < 3 * np.sqrt(share * (1 - share) / EXAMPLES)
    assert WordChoice.parse("aligned-nouns:0.8,random:0.2").reads("reads_nouns")
    assert not WordChoice.parse("random").reads("reads_nouns")


def test_strategies_have_names():
    """One registers once; an unknown one is answered with those that there are."""

    class Mine(WordMasking):
        pass

    register_word_masking("of-this-test")(Mine)
    assert get_word_masking("of-this-test") is Mine
    with pytest.raises(VTLMError, match="--word-masking of-this-test"):
        register_word_masking("of-this-test")(Mine)
    with pytest.raises(VTLMError, match=r"--word-masking rndom: .*aligned-nouns, .*of-this-test, random.*--user-dir"):
        get_word_masking("rndom")
    assert dictionary().index("<mask>") == MASK


def test_a_strategy_that_fails_is_a_fault_of_the_batch():
    """Carried to the training process, which ends in one line: arrays of a wrong length, and an error of its own."""

    class Cut(WordMasking):
        def mask(self, pair, rng):
            return pair.tokens, pair.tokens[: 7 if pair.tokens[1] == 10 else 5]

    class Refuses(WordMasking):
        def mask(self, pair, rng):
            raise VTLMError("no such word")

    for strategy, message in ((Cut, "Cut.mask gives 6 and 5 values for the 6 tokens of pair 2"), (Refuses, "no such")):
        dataset = lm_dataset([[10, 11, 2], [12, 2]], [[20, 2], [21, 2]], word_masking=strategy)
        batches = [dataset.collater(items) for items in ([dataset[0], dataset[1]], dataset.__getitems__([0, 1]))]
        assert all(message in batch[FAULT] for batch in batches)
