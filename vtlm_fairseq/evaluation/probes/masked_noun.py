"""``vtlm-probe masked-noun``: are masked nouns predicted better with the regions of their own image?"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtlm_fairseq.corpora.nouns import RegionNames, Text, find_pairs
from vtlm_fairseq.data.line_regions import LineRegions
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.paired import paired_interval
from vtlm_fairseq.evaluation.probes.entity_variants import UNTOUCHED, Choice, make_variants
from vtlm_fairseq.evaluation.splits import in_order, load_alignment, load_split
from vtlm_fairseq.evaluation.systems import named_checkpoints
from vtlm_fairseq.evaluation.tables import Table, publish
from vtlm_fairseq.files import write_lines
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.hub import VTLM
from vtlm_fairseq.text.nouns import Nouns
from vtlm_fairseq.text.pipeline import bpe_kind
from vtlm_fairseq.text.word_alignment import WordAlignment

GROUPS = ("all", "named by a region", "not named")
SENTENCES = ("system", "split", "masked", "word", "line", "named", "nouns", "given", "shuffled", "hidden",
             "given log p", "shuffled log p", "hidden log p")  # fmt: skip
"""Columns of ``--sentences``; line from 1, named 1 or 0, the others are sums over so many nouns."""


@dataclass(frozen=True)
class Masked:
    """What is masked: line (from 0), sub-words of a noun and of its target word, whether a region's class names it."""

    line: int
    spans: tuple[range, range]
    named: bool


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    if args.words is None and args.entities is None and args.regions == "none":
        raise VTLMError(
            "nothing says which words are nouns: give --words, --entities, or --regions, whose class names are taken"
        )
    listed = None if args.words is None else Nouns(read_lines(args.words))  # before the time that a model takes
    made = Table(
        ["system", "split", "masked", "word", "nouns", "number", "given", "shuffled", "hidden", "given - shuffled",
         "from", "to", "log p, given - shuffled", "log p from", "log p to"], [], title="Masked nouns",
        notes=["accuracy in per cent: all sub-words of a word predicted at once; 95 % interval over sentences",
               f"shuffled: mean of {args.repeats} derangements; log p: natural, summed over the word's sub-words"],
    )  # fmt: skip
    alignments: dict[tuple[str, str], WordAlignment] = {}
    written = []
    for name, path in named_checkpoints(args.systems):
        model = VTLM(path, data=args.data, region_order="none", preprocessed=True,
                     any_detector=args.any_detector, cpu=args.cpu)  # fmt: skip
        languages = (model.source_lang, model.target_lang)
        for subset in args.subsets.split(","):
            pair, regions = load_split(model.task, subset, regions=args.regions)
            sides = (pair.src, pair.tgt)
            text = Text(sides, model.dictionary, bpe_kind(args.data, model.dictionary.symbols))
            if languages not in alignments:
                alignments[languages] = load_alignment(model.task, text.bpe)
            masked, left_out = find_masked(text, alignments[languages], args, subset, listed)
            made.notes.append(f"{subset}: {len(masked)} nouns; {left_out} without an aligned word are left out")
            if regions is not None:
                made.notes.append(f'regions "{regions.store.detector}"')
            for what, sides in ((languages[0], (0,)), (languages[1], (1,)), ("both", (0, 1))):
                head, asked = [name, subset, what], ask(model, text, masked, sides, regions, args)
                made.rows += rows(head, model, masked, sides, asked)
                written += sentences(head, model, masked, sides, asked) if args.sentences else []
    made.notes = list(dict.fromkeys(made.notes))
    made.precision = {column: 1 for column in made.columns[6:12]}
    try:
        publish(made, args)
    finally:
        if args.sentences:
            write_lines(args.sentences, ["\t".join(SENTENCES), *written], label=f"--sentences {args.sentences}")


def find_masked(
    text: Text, alignment: WordAlignment, args: argparse.Namespace, subset: str, listed: Nouns | None
) -> tuple[list[Masked], int]:
    """Nouns of a split that have a target word, and the number of those that have none.

    Raises:
        VTLMError: a fault of the regions or of Entities, or no noun has a target word.
    """
    regions = None
    if args.regions != "none":
        regions = RegionNames(args.regions, args.data, subset, any_detector=args.any_detector)
    if args.entities is not None:
        places = heads(args, subset)
    else:
        places = (listed or regions.classes).places
    found = list(find_pairs(text, alignment, places))
    masked = [
        Masked(one.line, (one.source, one.target), regions is not None and regions.name(one.line, one.word))
        for one in found
        if one.target is not None
    ]
    if not masked:
        given = next(name for name in ("entities", "words", "regions") if getattr(args, name) not in (None, "none"))
        raise VTLMError(
            f"{args.data}: of {subset} no word is a noun by --{given} {getattr(args, given)} and has an "
            "aligned word; give words of the source language with --words"
        )
    return masked, len(found) - len(masked)


def heads(args: argparse.Namespace, subset: str) -> Callable[[int, Sequence[str]], Sequence[int]]:
    """The head nouns that Flickr30k Entities marks, by line, as ``vtlm-probe entity`` masks them.

    Raises:
        VTLMError: as :func:`make_variants`, or the binarised text is not that of ``references/``.
    """
    variants = make_variants(Path(args.data), subset, entities=args.entities, choice=Choice())

    def places(line: int, words: Sequence[str]) -> list[int]:
        whole = variants.variants[UNTOUCHED].words[line]
        if len(whole.split()) != len(words):
            raise VTLMError(
                f"{args.data}: line {line + 1} of {subset} is not that of references/; prepare the data again"
            )
        return [behind - 1 for _, behind in variants.spans[line]]

    return places


def predict(
    model: VTLM, text: Text, pairs: Sequence[Masked], sides: Sequence[int], regions: LineRegions | None, batch_size: int
) -> np.ndarray:
    """[2, sides, N]: whether each masked word is right, and its log p."""
    tokens = [[side[pair.line].long().clone() for pair in pairs] for side in text.sides]
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


Asked = tuple[np.ndarray | None, np.ndarray | None, np.ndarray]
"""What `predict` says with given, shuffled (the mean) and hidden regions; None of a model without regions."""


def ask(
    model: VTLM,
    text: Text,
    pairs: Sequence[Masked],
    sides: Sequence[int],
    regions: LineRegions | None,
    args: argparse.Namespace,
) -> Asked:
    """Predict the words of some sides, masked together, with each order of the regions."""
    lines = [pair.line for pair in pairs]

    def predicted(order: str, seed: int = 1) -> np.ndarray:
        ordered = in_order(regions, order, seed=seed, lines=lines)
        return predict(model, text, pairs, sides, ordered, args.batch_size)

    hidden = predicted("none")
    if regions is None:
        return None, None, hidden
    given = predicted("given")
    shuffled = np.mean([predicted("shuffle", args.seed + repeat) for repeat in range(args.repeats)], axis=0)
    return given, shuffled, hidden


def rows(head: list, model: VTLM, pairs: Sequence[Masked], sides: Sequence[int], asked: Asked) -> list[list]:
    """Rows of the table with some sides masked: each side's words; all, named and not named."""
    given, shuffled, _ = asked
    lines = np.array([pair.line for pair in pairs])
    named, made = np.array([pair.named for pair in pairs], dtype=bool), []
    for s, k in enumerate(sides):
        for group, chosen in zip(GROUPS, (np.ones_like(named), named, ~named), strict=True):
            row = [*head, (model.source_lang, model.target_lang)[k], group, int(chosen.sum())]
            if not chosen.any():
                made.append(row + [None] * 9)
                continue
            cells = [None if one is None else 100 * float(one[0, s, chosen].mean()) for one in asked]
            if given is None:
                made.append(row + cells + [None] * 6)
                continue
            right, log_p = (given - shuffled)[:, s, chosen]
            where = lines[chosen]
            made.append([*row, *cells, *paired_interval(100 * right, where), *paired_interval(log_p, where)])
    return made


def sentences(head: list, model: VTLM, pairs: Sequence[Masked], sides: Sequence[int], asked: Asked) -> list[str]:
    """Lines of ``--sentences``: sums over the nouns of a sentence that a region names, and over its others."""
    of = defaultdict(list)
    for n, pair in enumerate(pairs):
        of[pair.line, pair.named].append(n)
    made = []
    for s, k in enumerate(sides):
        for (line, named), places in sorted(of.items()):
            sums = ["" if one is None else f"{one[what, s, places].sum():.6g}" for what in (0, 1) for one in asked]
            word = (model.source_lang, model.target_lang)[k]
            made.append("\t".join([*head, word, str(line + 1), str(int(named)), str(len(places)), *sums]))
    return made
