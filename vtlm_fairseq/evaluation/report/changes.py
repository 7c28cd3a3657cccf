"""Which words of a translation another image, or none, changes."""

from collections.abc import Sequence
from difflib import SequenceMatcher


def differing(one: Sequence[str], other: Sequence[str]) -> tuple[set[int], set[int]]:
    """Places of the words of each of two sentences that are not in the other, in the same order."""
    kept, there = set(range(len(one))), set(range(len(other)))
    for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
        kept -= set(range(block.a, block.a + block.size))
        there -= set(range(block.b, block.b + block.size))
    return kept, there


def count_words(number: int) -> str:
    """``no word``, ``1 word``, ``3 words``."""
    return f"{number or 'no'} word{'s' if number > 1 else ''}"
