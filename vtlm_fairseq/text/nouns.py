"""Nouns by name: names of region classes, and words that are one of them."""

from collections.abc import Sequence

_SINGULAR = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "kids": "kid",
    "feet": "foot",
    "teeth": "tooth",
    "knives": "knife",
    "leaves": "leaf",
}


class Nouns:
    """Words that are masked, by name: exactly, or their English singular. ``a,b`` is one noun of two names.

    Attributes:
        beginnings: the first word of each name of several, and of how many words the longest such name is.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._ids: dict[str, int] = {}
        self.beginnings: dict[str, int] = {}
        for number, name in enumerate(names):
            for alias in name.split(","):
                self.add(alias, number)

    def add(self, name: str, number: int) -> None:
        """One more name of a noun; of two nouns of one name the first keeps it."""
        if name.strip():
            self._ids.setdefault(name.strip().lower(), number)
            words = name.lower().split()
            if len(words) > 1:
                self.beginnings[words[0]] = max(len(words), self.beginnings.get(words[0], 0))

    def find(self, word: str) -> int | None:
        """Number of a word's name."""
        return self._ids.get(word.lower(), self._ids.get(singular(word)))

    def places(self, line: int, words: Sequence[str]) -> list[int]:
        """Which words of a sentence are nouns."""
        return [place for place, word in enumerate(words) if self.find(word) is not None]


def singular(word: str) -> str:
    """Singular of an English noun, in lower case, by a few rules."""
    word = word.lower()
    if word in _SINGULAR:
        return _SINGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return word[:-1]
    return word
