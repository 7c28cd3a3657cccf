"""``vtlm-probe masked-noun``: are masked nouns predicted better with the regions of their own image?"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vtlm_fairseq.corpora.oracle_labels import singular
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.probes.last_word import bpe_kind
from vtlm_fairseq.evaluation.scoring.hypotheses import read_lines
from vtlm_fairseq.evaluation.splits import in_order, load_split
from vtlm_fairseq.evaluation.systems import named_checkpoints
from vtlm_fairseq.evaluation.tables import Table
from vtlm_fairseq.hub import VTLM
from vtlm_fairseq.regions.store import RegionStore
from vtlm_fairseq.tasks.captions import read_image_names
from vtlm_fairseq.terminal import write_out
from vtlm_fairseq.text.subwords import spell, split_words
from vtlm_fairseq.text.word_alignment import WordAlignment, evenly_spaced

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
GROUPS = ("all", "named by a region", "not named")


class Nouns:
    """Words that are masked, by name: exactly, or their English singular. ``a,b`` is one noun of two names."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ids: dict[str, int] = {}
        for number, name in enumerate(names):
            for alias in name.split(","):
                self._ids.setdefault(alias.strip().lower(), number)

    def find(self, word: str) -> int | None:
        """Number of a word's name."""
        return self._ids.get(word.lower(), self._ids.get(singular(word)))


@dataclass(frozen=True)
class NounPair:
    """A noun of a source sentence and its target word: line (from 0), sub-words of both, whether a region names it."""

    line: int
    spans: tuple[range, range]
    named: bool


def paired_interval(values: np.ndarray, sentences: np.ndarray) -> tuple[float, float, float]:
    """Mean of N values and its 95 % interval over sentences, of which each may have several values.

    The ratio of two sums over sentences, with the variance of its linearisation; normal.
    """
    if not len(values):
        return (math.nan,) * 3
    _, place = np.unique(sentences, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    mean, number = values.mean(), len(counts)
    if number < 2:
        return float(mean), math.nan, math.nan
    deviation = math.sqrt(number / (number - 1) * float(((sums - mean * counts) ** 2).sum())) / len(values)
    return float(mean), float(mean - _Z * deviation), float(mean + _Z * deviation)


def run(args: argparse.Namespace) -> int:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    if args.words is None and args.regions == "none":
        raise VTLMError("nothing says which words are nouns: give --words, or --regions, whose class names are taken")
    made = Table(
        ["system", "split", "masked", "word", "nouns", "number", "given", "shuffled", "hidden", "given - shuffled",
         "from", "to", "log p, given - shuffled", "log p from", "log p to"], [], title="Masked nouns",
        notes=["accuracy in per cent: all sub-words of a word predicted at once; 95 % interval over sentences",
               f"shuffled: mean of {args.repeats} derangements; log p: natural, summed over the word's sub-words"],
    )  # fmt: skip
    models: dict[tuple[str, str], WordAlignment] = {}
    for name, path in named_checkpoints(args.systems):
        model = VTLM(path, data=args.data, region_order="none", preprocessed=True,
                     any_detector=args.any_detector, cpu=args.cpu)  # fmt: skip
        languages = (model.source_lang, model.target_lang)
        for subset in args.subsets.split(","):
            text, regions = load_split(model.task, subset, regions=args.regions)
            bpe = bpe_kind(args.data, [model.dictionary.string(text.src[i]) for i in range(len(text))])
            if languages not in models:
                train, _ = load_train(model, args.data)
                models[languages] = WordAlignment.train(
                    tuple([w for w, _ in words(model, side[i], bpe)] for side in (train.src, train.tgt))
                    for i in evenly_spaced(len(train))
                )
            pairs, left_out = find_nouns(model, text, bpe, models[languages], args, subset)
            made.notes.append(f"{subset}: {len(pairs)} nouns; {left_out} without an aligned word are left out")
            if regions is not None:
                made.notes.append(f'regions "{regions.store.detector}"')
            for masked, sides in ((languages[0], (0,)), (languages[1], (1,)), ("both", (0, 1))):
                made.rows += rows([name, subset, masked], model, text, pairs, sides, regions, args)
    made.notes = list(dict.fromkeys(made.notes))
    made.precision = {column: 1 for column in made.columns[6:12]}
    write_out(made.render(args.format))
    return 0


def load_train(model: VTLM, data: str):
    """Text of the training split, without regions."""
    task = model.task
    had, task.has_regions = task.has_regions, False
    try:
        return load_split(task, "train", regions="none")
    finally:
        task.has_regions = had


def words(model: VTLM, tokens: torch.Tensor, bpe: str) -> list[tuple[str, range]]:
    """Lower-cased words of a sentence with the places of their sub-words."""
    symbols = [model.dictionary[i] for i in tokens[:-1].tolist()]
    return [(spell(symbols[at.start : at.stop], bpe).lower(), at) for at in split_words(symbols, bpe)]


def find_nouns(
    model: VTLM, text, bpe: str, alignment: WordAlignment, args: argparse.Namespace, subset: str
) -> tuple[list[NounPair], int]:
    """Nouns of a split that have a target word, and the number of those that have none."""
    labels, names = None, None
    if args.regions != "none":
        store = RegionStore.open(args.regions, subset)
        names, at = store.class_names, store.rows(read_image_names(args.data, subset))
        labels = [set(store[int(row)].labels.tolist()) for row in at]
    classes = Nouns(names or [])
    nouns = classes if args.words is None else Nouns(read_lines(args.words))
    found, left_out = [], 0
    for line in range(len(text)):
        sides = [words(model, side[line], bpe) for side in (text.src, text.tgt)]
        aligned = alignment.align(*([word for word, _ in side] for side in sides))
        for (word, at), j in zip(sides[0], aligned, strict=True):
            if nouns.find(word) is None:
                continue
            if j is None:
                left_out += 1
                continue
            named = labels is not None and classes.find(word) in labels[line]
            found.append(NounPair(line, (at, sides[1][j][1]), named))
    return found, left_out


def predict(model, text, pairs, sides, regions: LineRegions | None, batch_size: int) -> np.ndarray:
    """[2, sides, N]: whether each masked word is right, and its log p."""
    tokens = [[side[pair.line].long().clone() for pair in pairs] for side in (text.src, text.tgt)]
    wanted = [[tokens[k][n][pair.spans[k].start : pair.spans[k].stop].clone() for n, pair in enumerate(pairs)]
              for k in sides]  # fmt: skip
    for k in sides:
        for n, pair in enumerate(pairs):
            tokens[k][n][pair.spans[k].start : pair.spans[k].stop] = model.mask_idx
    found = np.zeros((2, len(sides), len(pairs)))
    for n, log_probs in model.predict(*tokens, regions=regions, batch_size=batch_size):
        start = 0
        for s in range(len(sides)):
            ids = wanted[s][n]
            part = log_probs[start : start + len(ids)]
            found[0, s, n] = bool((part.argmax(dim=1) == ids).all())
            found[1, s, n] = float(part.gather(1, ids[:, None]).sum())
            start += len(ids)
    return found


def rows(head: list, model, text, pairs: list[NounPair], sides, regions, args) -> list[list]:
    """Rows of the table with some sides masked: each side's words; all, named and not named."""
    lines = [pair.line for pair in pairs]

    def ask(order: str, seed: int = 1) -> np.ndarray:
        ordered = in_order(regions, order, seed=seed, lines=lines)
        return predict(model, text, pairs, sides, ordered, args.batch_size)

    hidden, given, shuffled = ask("none"), None, None
    if regions is not None:
        given = ask("given")
        shuffled = np.mean([ask("shuffle", args.seed + repeat) for repeat in range(args.repeats)], axis=0)
    orders = (given, shuffled, hidden)
    named, made = np.array([pair.named for pair in pairs], dtype=bool), []
    for s, k in enumerate(sides):
        for group, chosen in zip(GROUPS, (np.ones_like(named), named, ~named), strict=True):
            row = [*head, (model.source_lang, model.target_lang)[k], group, int(chosen.sum())]
            if not chosen.any():
                made.append(row + [None] * 9)
                continue
            cells = [None if one is None else 100 * float(one[0, s, chosen].mean()) for one in orders]
            if given is None:
                made.append(row + cells + [None] * 6)
                continue
            where = np.array(lines)[chosen]
            right, log_p = (given - shuffled)[:, s, chosen]
            made.append([*row, *cells, *paired_interval(100 * right, where), *paired_interval(log_p, where)])
    return made
