"""Words of a language that this package knows nothing of: ``--segment NAME``, which ``--user-dir`` registers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache

from vtlm_fairseq.registry import Registry


class LanguageWords(ABC):
    """Where sentences of a language are cut. Its name is the last step in ``text.json``, in place of Moses' tokeniser.

    Attributes:
        languages: codes that it is for, as ``-s`` and ``-t`` name them.
    """

    languages: Sequence[str] = ()

    @abstractmethod
    def words(self, text: str) -> list[str]:
        """Words of a sentence, none of which holds a blank."""

    def join(self, words: list[str]) -> str:
        """Running text of words."""
        return "".join(words)


_WORDS = Registry("--segment", "ways", "--user-dir can register your own")
register_words = _WORDS.register
"""Class decorator: makes a way known as ``--segment NAME``."""
own_words = _WORDS.names
"""Names of those that are registered."""


def words_for(lang: str, steps: Iterable[str]) -> str | None:
    """The one among the steps that is registered for a language."""
    return next((step for step in steps if step in own_words() and lang in _WORDS.get(step).languages), None)


def get_words(name: str) -> LanguageWords:
    """The way of a name; it is made once in a process."""
    return _make(_WORDS.get(name))


@cache
def _make(way: type[LanguageWords]) -> LanguageWords:
    return way()
