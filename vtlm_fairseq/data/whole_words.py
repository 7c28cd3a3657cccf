"""Strategies of masking words that know what a word is: ``--word-masking whole-word`` and ``named``."""

import numpy as np

from vtlm_fairseq.data.word_masking import Pair, WordMasking, register_word_masking


@register_word_masking("whole-word")
class WholeWords(WordMasking):
    """All sub-words of a word together, so that none tells the others.

    Each word is selected in share ``--mask-prob``; all its sub-words are predicted then, and all become ``<mask>``, or
    are kept, or become random ones. So a sub-word is predicted in the same share as by ``random``.
    """

    reads_words = True

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The draws of ``random``; of the first two, a sub-word takes those of the first of its word."""
        heads = self.symbols.text.heads(pair.tokens)
        chance, kind = rng.random((2, len(heads)))
        return self.replace(pair, self.rates.split(chance[heads], kind[heads]), rng)


@register_word_masking("named")
class NamedWords(WordMasking):
    """Words that name a region that can be seen come first, so that the image can tell them.

    As many words of a pair are predicted as by ``whole-word``, in share ``--mask-prob`` of all words, whole. They are
    drawn from those that name a class of which a region is neither masked nor replaced, then from the others.
    """

    reads_words = reads_names = True

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Three draws of T numbers each, whether, how, and which words; then random words."""
        heads = self.symbols.text.heads(pair.tokens)
        chance, kind, which = rng.random((3, len(heads)))
        words = np.unique(heads[pair.maskable])
        count = np.count_nonzero(chance[words] < self.rates.select)
        seen = set(pair.labels[pair.visible].tolist())
        for start, end, label in self.symbols.names.find(pair.tokens).tolist():
            if label in seen:
                which[start:end] += 1
        chosen = words[np.argsort(-which[words], kind="stable")[:count]]
        return self.replace(pair, self.rates.kinds(np.isin(heads, chosen), kind[heads]), rng)
