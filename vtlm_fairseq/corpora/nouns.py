"""``vtlm-prepare nouns``: nouns of the source sentences and the target words that say them, beside binarised data."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from fairseq.data import Dictionary, data_utils

from vtlm_fairseq.data.dictionary import word_mask
from vtlm_fairseq.data.noun_table import write_table
from vtlm_fairseq.data.split_files import language_pair
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.regions.resolve import holds_split
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.tasks.splits import read_image_names, unreadable_text
from vtlm_fairseq.tasks.visual_translation_lm import VisualTranslationLMTask
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.nouns import Nouns
from vtlm_fairseq.text.pipeline import bpe_kind
from vtlm_fairseq.text.subwords import spell, split_words
from vtlm_fairseq.text.word_alignment import WordAlignment, evenly_spaced


class RegionNames:
    """Which words name a region of their line: its class has their name.

    Raises:
        VTLMError: no such store, or an image is not in it.
    """

    def __init__(self, regions: str, data: str, split: str, *, any_detector: bool = False) -> None:
        store = RegionStore.open(regions, split, any_detector=any_detector)
        self.classes = Nouns(store.class_names)
        rows = store.rows(read_image_names(data, split), file=os.path.join(data, f"{split}.images"))
        self._labels = [set(store[int(row)].labels.tolist()) for row in rows]

    def name(self, line: int, word: str) -> bool:
        """Whether a word of the source language names a region of a line (from 0)."""
        return self.classes.find(word) in self._labels[line]

    def labels(self, line: int) -> set[int]:
        """Classes of the regions of a line."""
        return self._labels[line]


@dataclass(frozen=True)
class Text:
    """Sentence pairs of a split.

    Attributes:
        sides: token ids by line of source and target, each ending in ``</s>``.
        dictionary: the joint one.
        bpe: one of :data:`vtlm_fairseq.text.subwords.BPE_KINDS`.
    """

    sides: tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]
    dictionary: Dictionary
    bpe: str

    def __len__(self) -> int:
        return len(self.sides[0])

    def words(self, line: int, side: int) -> list[tuple[str, range]]:
        """Lower-cased words of a sentence with the places of their sub-words."""
        symbols = [self.dictionary[i] for i in self.sides[side][line][:-1].tolist()]
        return [(spell(symbols[at.start : at.stop], self.bpe).lower(), at) for at in split_words(symbols, self.bpe)]

    def align(self) -> WordAlignment:
        """A model of these pairs."""
        return WordAlignment.train(
            tuple([word for word, _ in self.words(line, side)] for side in (0, 1)) for line in evenly_spaced(len(self))
        )


@dataclass(frozen=True)
class NounPair:
    """A noun of a source sentence.

    Attributes:
        line: from 0.
        word: lower-cased.
        source: its sub-words.
        target: sub-words of its word in the target sentence; None where none is known, or one with ``<unk>``.
    """

    line: int
    word: str
    source: range
    target: range | None


def find_pairs(
    text: Text, alignment: WordAlignment, places: Callable[[int, Sequence[str]], Sequence[int]]
) -> Iterator[NounPair]:
    """Nouns of the source sentences, in order.

    Args:
        text: the sentences.
        alignment: of words of the two languages.
        places: which words of a sentence are nouns, given its line and its words.
    """
    is_word = word_mask(text.dictionary)
    for line in range(len(text)):
        source = text.words(line, 0)
        found = places(line, [word for word, _ in source])
        if not found:
            continue
        target, ids = text.words(line, 1), text.sides[1][line]
        aligned = alignment.align(*([word for word, _ in side] for side in (source, target)))
        for i in found:
            at = None if aligned[i] is None else target[aligned[i]][1]
            whole = at is not None and is_word[ids[at.start : at.stop].numpy()].all()
            yield NounPair(line, *source[i], at if whole else None)


def run(args: argparse.Namespace) -> None:
    """Make the tables.

    Raises:
        VTLMError: a fault of input or options, or there is no such noun.
    """
    pair, dictionary = open_folder(args.data, args.source_lang, args.target_lang)
    names = [check_name(split, "split", hint="see --subsets") for split in args.subsets.split(",")]
    if args.words is not None:
        nouns = dict.fromkeys(names, Nouns(read_lines(args.words)))
    else:
        nouns = _class_names(args.regions, names)
    texts = {split: read_split(args.data, split, pair, dictionary) for split in names}
    alignment = read_split(args.data, "train", pair, dictionary).align()
    found = {split: list(find_pairs(text, alignment, nouns[split].places)) for split, text in texts.items()}
    if not any(one.target is not None for every in found.values() for one in every):
        raise VTLMError(
            f"{args.data}: of {args.subsets} no word of {pair[0]} is one of the nouns of "
            f"{f'--regions {args.regions} (its class names)' if args.words is None else f'--words {args.words}'} and "
            f"has an aligned word in {pair[1]}; give such words of {pair[0]} with --words"
        )
    for split, every in found.items():
        text = texts[split]
        kept = [[one.line, one.source.start, one.source.stop, one.target.start, one.target.stop]
                for one in every if one.target is not None]  # fmt: skip
        path = write_table(args.data, split, pair, np.array(kept, dtype=np.int32).reshape(-1, 5))
        lines, lost = len({row[0] for row in kept}), len(every) - len(kept)
        said = f"{len(kept):,} aligned nouns in {lines:,} of {len(text):,} lines"
        say(f"{path}: {said}; {lost:,} nouns without an aligned word")


def _class_names(regions: str, splits: Sequence[str]) -> dict[str, Nouns]:
    """Nouns of the store of each split; of one that has none, of the first that has.

    Raises:
        VTLMError: none has, or one cannot be read.
    """
    found: dict[str, str] = {}
    for split in splits:
        for name in (split, split.rstrip("0123456789")):  # the regions of train1 may be among those of train
            if split not in found and holds_split(regions, name):
                found[split] = name
    first = next(iter(found.values()), splits[0])
    nouns = {name: Nouns(RegionStore.open(regions, name).class_names) for name in {first, *found.values()}}
    return {split: nouns[found.get(split, first)] for split in splits}


def open_folder(folder: str, source: str | None, target: str | None) -> tuple[tuple[str, str], Dictionary]:
    """Languages and dictionary of a folder of binarised data.

    Raises:
        VTLMError: there is none, or its languages are not known.
    """
    if not os.path.isdir(folder):
        raise VTLMError(f"{folder}: no such folder of binarised data")
    pair = language_pair(folder, source, target)
    return pair, VisualTranslationLMTask.load_dictionary(os.path.join(folder, f"dict.{pair[0]}.txt"))


def read_split(folder: str, split: str, pair: tuple[str, str], dictionary: Dictionary) -> Text:
    """A binarised split, whichever direction it was binarised in.

    Raises:
        VTLMError: there is none, or it cannot be read.
    """
    sides = []
    with unreadable_text(folder, split):
        for lang in pair:
            prefixes = [os.path.join(folder, f"{split}.{a}-{b}.{lang}") for a, b in (pair, pair[::-1])]
            loaded = (data_utils.load_indexed_dataset(prefix, dictionary) for prefix in prefixes)
            side = next((one for one in loaded if one is not None), None)
            if side is None:
                raise VTLMError(f"{prefixes[0]}: no such split; see --subsets")
            sides.append(side)
    if len(sides[0]) != len(sides[1]):
        raise VTLMError(f"{folder}: {split} has {len(sides[0])} and {len(sides[1])} sentences; prepare it again")
    return Text(tuple(sides), dictionary, bpe_kind(folder, dictionary.symbols))
