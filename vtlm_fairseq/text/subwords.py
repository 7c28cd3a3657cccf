"""Where words begin in a sentence of sub-words, and how they are spelled: for scores, probes, validation and report."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

MASK = "<mask>"
BPE_KINDS = ("sentencepiece", "subword_nmt", "none")
"""Of BPE: a mark begins a word; ``@@`` joins a sub-word to the next (also of fastBPE); each symbol is a word."""
BOUNDARY, JOINT = "\u2581", "@@"

_ALONE = ("<s>", "<pad>", "</s>", MASK)
_MARKS = {"sentencepiece": re.compile(BOUNDARY), "subword_nmt": re.compile(rf"\S{JOINT}(?: |$)")}


def subword_kind(texts: Iterable[str]) -> str | None:
    """The kind of BPE whose marks most sentences, or symbols of a dictionary, show; None: none."""
    found = Counter(kind for text in texts for kind, marks in _MARKS.items() if marks.search(text))
    return max(found, key=found.get, default=None)


def dictionary_kind(symbols: Sequence[str]) -> str | None:
    """The kind of BPE of a dictionary's symbols; None: words, of which one in a thousand may look like a sub-word."""
    kind = subword_kind(symbols)
    marked = sum(_MARKS[kind].search(symbol) is not None for symbol in symbols) if kind else 0
    return kind if 1000 * marked > len(symbols) else None


def split_words(pieces: Sequence[str], bpe: str) -> list[range]:
    """Places of the sub-words of each word, one word after the other.

    ``<mask>`` and the symbols around a sentence are words of their own; ``<unk>`` stands for any sub-word, and is a
    part of a word where one would be.

    Args:
        pieces: sub-words of a sentence.
        bpe: one of `BPE_KINDS`.
    """
    starts = [place for place in range(len(pieces)) if not place or begins(pieces[place - 1], pieces[place], bpe)]
    return [range(*pair) for pair in pairwise([*starts, len(pieces)])]


def begins(before: str, piece: str, bpe: str) -> bool:
    """Whether a word begins with a sub-word behind another one."""
    if bpe == "none" or before in _ALONE or piece in _ALONE:
        return True
    return piece.startswith(BOUNDARY) if bpe == "sentencepiece" else not before.endswith(JOINT)


def spell(pieces: Sequence[str], bpe: str) -> str:
    """A word from its sub-words, without their marks."""
    if bpe == "subword_nmt":
        return "".join(piece.removesuffix(JOINT) for piece in pieces)
    text = "".join(pieces)
    return text.replace(BOUNDARY, " ").strip() if bpe == "sentencepiece" else text


def join_words(text: str, bpe: str) -> str:
    """Words of a sentence, separated by single spaces, from its sub-words, separated by spaces."""
    pieces = text.replace(MASK, f" {MASK} ").split(" ")
    return " ".join(" ".join(spell(pieces[word.start : word.stop], bpe) for word in split_words(pieces, bpe)).split())
