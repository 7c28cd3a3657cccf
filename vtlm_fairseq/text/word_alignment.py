"""Which word of a sentence is which of its translation: IBM model 1 in both directions, where the two agree.

The tables are estimated by expectation maximisation from a uniform start, so the same pairs give the same alignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vtlm_fairseq.errors import VTLMError

ITERATIONS = 5
MOST_PAIRS = 100_000
"""Sentence pairs that a model is made of: of more, evenly spaced ones."""
_NOTHING = 0  # the empty word, to which words without a counterpart belong
_UNKNOWN = -1


@dataclass(frozen=True)
class Direction:
    """p(said | heard): the words of one side, each said for one of the other side's words, or for none.

    Attributes:
        keys: [P] int64, ascending: ``heard * width + said`` of pairs of words that stand in one pair of sentences.
        values: [P] their probabilities.
        width: number of words that can be said.
    """

    keys: np.ndarray
    values: np.ndarray
    width: int

    @classmethod
    def train(cls, pairs: Sequence[tuple[np.ndarray, np.ndarray]], *, width: int, iterations: int) -> Direction:
        """Estimate from pairs of (heard, said) word ids, which begin at 1."""
        blocks, places, count = [], [], 0
        for heard, said in pairs:
            heard = np.append(heard, _NOTHING)
            blocks.append((heard[:, None] * np.int64(width) + said).reshape(-1))
            places.append(np.tile(np.arange(count, count + len(said)), len(heard)))
            count += len(said)
        keys, entries = np.unique(np.concatenate(blocks), return_inverse=True)
        words, heard = np.concatenate(places), keys // width
        values = np.ones(len(keys))
        for _ in range(iterations):
            expected = values[entries]
            expected /= np.bincount(words, expected, count)[words]
            counts = np.bincount(entries, expected, len(keys))
            values = counts / np.bincount(heard, counts)[heard]
        return cls(keys, values, width)

    def probabilities(self, heard: np.ndarray, said: np.ndarray) -> np.ndarray:
        """[H+1, S] p of each word said for each word heard; the last row is that of none."""
        known = (heard[:, None] != _UNKNOWN) & (said != _UNKNOWN)
        wanted = np.append(heard, _NOTHING)[:, None] * np.int64(self.width) + said
        at = np.minimum(self.keys.searchsorted(wanted), len(self.keys) - 1)
        found = np.where(self.keys[at] == wanted, self.values[at], 0.0)
        found[:-1][~known] = 0.0
        return found

    def best(self, heard: np.ndarray, said: np.ndarray) -> list[int | None]:
        """For each word said the place of the word heard that it most probably stands for.

        None where that is no word. Of equal ones, as where a word stands twice, the one nearest to the diagonal.
        """
        found = self.probabilities(heard, said)
        places: list[int | None] = []
        for j in range(len(said)):
            column = found[:-1, j]
            if not len(column) or column.max() <= found[-1, j]:
                places.append(None)
                continue
            distance = np.abs((np.arange(len(heard)) + 0.5) / len(heard) - (j + 0.5) / len(said))
            places.append(int(np.where(column == column.max(), distance, np.inf).argmin()))
        return places


@dataclass(frozen=True)
class WordAlignment:
    """IBM model 1 in both directions.

    Attributes:
        words: ids of the source's and of the target's words, from 1.
        forward: p(target word | source word).
        backward: p(source word | target word).
    """

    words: tuple[dict[str, int], dict[str, int]]
    forward: Direction
    backward: Direction

    @classmethod
    def train(
        cls, pairs: Iterable[tuple[Sequence[str], Sequence[str]]], *, iterations: int = ITERATIONS
    ) -> WordAlignment:
        """Estimate both directions from pairs of sentences.

        Raises:
            VTLMError: no pair has words on both sides.
        """
        words: tuple[dict[str, int], dict[str, int]] = ({}, {})
        numbered = []
        for pair in pairs:
            ids = [
                np.array([known.setdefault(word, len(known) + 1) for word in side], dtype=np.int64)
                for known, side in zip(words, pair, strict=True)
            ]
            if all(map(len, ids)):
                numbered.append(ids)
        if not numbered:
            raise VTLMError("no pair of the training split has words on both sides, so none can be aligned")
        widths = [len(known) + 1 for known in words]
        forward = Direction.train(numbered, width=widths[1], iterations=iterations)
        backward = Direction.train([ids[::-1] for ids in numbered], width=widths[0], iterations=iterations)
        return cls(words, forward, backward)

    def align(self, source: Sequence[str], target: Sequence[str]) -> list[int | None]:
        """For each source word the place of its target word, None where the two directions do not agree on one."""
        ids = [
            np.array([known.get(word, _UNKNOWN) for word in side], dtype=np.int64)
            for known, side in zip(self.words, (source, target), strict=True)
        ]
        of_target = self.forward.best(*ids)
        of_source = self.backward.best(*ids[::-1])
        return [j if j is not None and of_target[j] == i else None for i, j in enumerate(of_source)]


def evenly_spaced(count: int, most: int = MOST_PAIRS) -> range:
    """Numbers below ``count``, all of them or about ``most``."""
    return range(0, count, max(1, -(-count // most)))
