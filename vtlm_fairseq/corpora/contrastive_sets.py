"""``vtlm-prepare contrastive``: translations in which one noun is wrong, for ``vtlm-probe contrastive``.

A noun that a region of its image names is replaced, in the reference, by a noun of another class that no region of the
image has and the sentence does not say. It stands behind the same word in training (an article or adjective, so that
endings agree), about as often as the right one: from the target text alone both are likely.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fairseq.data import Dictionary

from vtlm_fairseq.corpora.nouns import NounPair, RegionNames, Text, find_pairs, open_folder, read_split
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_new_folder, new_folder, write_lines
from vtlm_fairseq.files.names import check_name
from vtlm_fairseq.tasks.splits import read_image_names
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.subwords import MASK

NEAREST = 5
"""Of the wrong words, those whose counts are nearest to the right one's: one of them is drawn."""


@dataclass(frozen=True)
class Item:
    """A noun with a wrong one.

    Attributes:
        pair: where it stands.
        right, wrong: sub-words of the two target words, separated by spaces.
    """

    pair: NounPair
    right: str
    wrong: str


class Vocabulary:
    """Target words of nouns in the training split: how often behind which word, and of which classes.

    Args:
        text: the training split.
        pairs: its aligned nouns.
        regions: numbers of the classes by name.
    """

    def __init__(self, text: Text, pairs: Sequence[NounPair], regions: RegionNames) -> None:
        self.behind: dict[str, Counter[str]] = defaultdict(Counter)
        self.classes: dict[str, set[int]] = defaultdict(set)
        for pair in pairs:
            word = pieces(text, pair)
            self.behind[word_before(text, pair)][word] += 1
            self.classes[word].add(regions.classes.find(pair.word))

    def wrong(self, right: str, before: str, *, excluded: set[int], least: int) -> list[str]:
        """Words behind ``before``, of no excluded class, whose counts are nearest to the right one's."""
        counts = self.behind[before]
        found = [word for word, count in counts.items() if count >= least and not self.classes[word] & excluded]
        found.sort(key=lambda word: (abs(np.log(counts[word] / max(1, counts[right]))), word))
        return found[:NEAREST]


def pieces(text: Text, pair: NounPair) -> str:
    """Sub-words of a pair's target word."""
    ids = text.sides[1][pair.line][pair.target.start : pair.target.stop].tolist()
    return " ".join(text.dictionary[i] for i in ids)


def word_before(text: Text, pair: NounPair) -> str:
    """The target word before a pair's, lower-cased; empty at the beginning of the sentence."""
    return next((word for word, at in text.words(pair.line, 1) if at.stop == pair.target.start), "")


def choose(text: Text, pairs: Sequence[NounPair], vocabulary: Vocabulary, regions: RegionNames, args) -> list[Item]:
    """A wrong word for each noun that a region names; those that have none are left out."""
    said: dict[int, set[int]] = defaultdict(set)
    for pair in pairs:
        said[pair.line].add(regions.classes.find(pair.word))
    items = []
    for number, pair in enumerate(pairs):
        if pair.target is None or not regions.name(pair.line, pair.word):
            continue
        right, there = pieces(text, pair), said[pair.line] | regions.labels(pair.line)
        excluded = there | vocabulary.classes[right]
        words = vocabulary.wrong(right, word_before(text, pair), excluded=excluded, least=args.least)
        if words:
            drawn = np.random.default_rng((args.seed, number)).integers(len(words))
            items.append(Item(pair, right, words[drawn]))
    return items


def run(args: argparse.Namespace) -> None:
    """Make the set.

    Raises:
        VTLMError: a fault of input or options.
    """
    split = check_name(args.gen_subset, "split", hint="see --gen-subset")
    check_new_folder(args.out)
    pair, dictionary = open_folder(args.data, args.source_lang, args.target_lang)
    regions = RegionNames(args.regions, args.data, split)
    train, text = (read_split(args.data, name, pair, dictionary) for name in ("train", split))
    images = read_image_names(args.data, split, pairs=len(text))
    alignment = train.align()
    learnt, found = (list(find_pairs(one, alignment, regions.classes.places)) for one in (train, text))
    vocabulary = Vocabulary(train, [one for one in learnt if one.target is not None], regions)
    items = choose(text, found, vocabulary, regions, args)
    if not items:
        raise VTLMError(
            f"{args.data}: no noun of {split} is named by a region of its image and has a wrong one; the class names "
            f"of --regions must be words of {pair[0]}"
        )
    with new_folder(args.out) as folder:
        files = {f"src.{pair[0]}": [], f"src.mask.{pair[0]}": [], f"correct.{pair[1]}": [], f"incorrect.{pair[1]}": []}
        for item in items:
            source, target = (symbols(side[item.pair.line], dictionary) for side in text.sides)
            lines = (source, put(source, item.pair.source, MASK), target, put(target, item.pair.target, item.wrong))
            for name, line in zip(files, lines, strict=True):
                files[name].append(" ".join(line))
        files["images"] = [images[item.pair.line] for item in items]
        files["items.tsv"] = ["line\tnoun\tright\twrong", *(
            f"{item.pair.line + 1}\t{item.pair.word}\t{item.right}\t{item.wrong}" for item in items
        )]  # fmt: skip
        for name, lines in files.items():
            write_lines(folder / name, lines)
    say(
        f"{args.out}: {len(items):,} nouns of {len({item.pair.line for item in items}):,} sentences, of {len(found):,} "
        f"nouns in {len(text):,}"
    )


def symbols(ids, dictionary: Dictionary) -> list[str]:
    """Sub-words of a sentence, without ``</s>``."""
    return [dictionary[i] for i in ids[:-1].tolist()]


def put(sentence: list[str], place: range, word: str) -> list[str]:
    """A sentence with other sub-words in a place."""
    return [*sentence[: place.start], word, *sentence[place.stop :]]
