"""Strategies of masking words in shares: ``--word-masking aligned-nouns:0.8,random:0.2``."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vtlm_fairseq.data.masking import MaskingRates
from vtlm_fairseq.data.word_masking import Pair, Symbols, WordMasking, get_word_masking
from vtlm_fairseq.errors import VTLMError


class Mixture(WordMasking):
    """Each pair is masked by one of some strategies.

    Args:
        parts: the strategies.
        shares: of the pairs that each gets.
    """

    def __init__(self, parts: Sequence[WordMasking], shares: Sequence[float]) -> None:
        super().__init__(parts[0].symbols, parts[0].rates)
        self.parts = list(parts)
        self.bounds = np.cumsum(shares)

    def mask(self, pair: Pair, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Which strategy; then its draws."""
        place = int(np.searchsorted(self.bounds, rng.random(), side="right"))
        return self.parts[min(place, len(self.parts) - 1)].mask(pair, rng)


@dataclass(frozen=True)
class WordChoice:
    """What ``--word-masking`` says.

    Attributes:
        classes: of the strategies.
        shares: of each, none 0, together 1.
    """

    classes: tuple[type[WordMasking], ...]
    shares: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> "WordChoice":
        """From the name of a strategy, or ``NAME:SHARE,NAME:SHARE,...``.

        Raises:
            VTLMError: a strategy is not known, or the shares do not add up to 1.
        """
        if ":" not in text and "," not in text:
            return cls((get_word_masking(text),), (1.0,))
        parts = [part.strip().rpartition(":") for part in text.split(",")]
        try:
            shares = tuple(float(share) for _, _, share in parts)
        except ValueError:
            shares = ()
        if not shares or not all(share > 0 for share in shares) or abs(sum(shares) - 1) > 1e-6:
            raise VTLMError(
                f"--word-masking {text}: a mixture is NAME:SHARE,NAME:SHARE,... with shares above 0 that add up to 1"
            )
        return cls(tuple(get_word_masking(name) for name, _, _ in parts), shares)

    def reads(self, what: str) -> bool:
        """Whether a strategy has ``reads_nouns``, ``reads_words`` or ``reads_names``."""
        return any(getattr(one, what) for one in self.classes)

    def make(self, symbols: Symbols, rates: MaskingRates, option: Callable[[str], Any]) -> WordMasking:
        """The strategy. The shares of a mixture stand in the place of ``--aligned-share``."""
        if len(self.classes) == 1:
            return self.classes[0](symbols, rates, option)
        options = {"aligned_share": 1.0}
        parts = [one(symbols, rates, lambda name: options.get(name) or option(name)) for one in self.classes]
        return Mixture(parts, self.shares)
