"""``vtlm-probe pointing``: is the region that a word attends to most the one that it names?"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vtlm_fairseq.corpora.nouns import Text, find_pairs
from vtlm_fairseq.data.caption_words import CaptionWords, names_of_store
from vtlm_fairseq.data.region_masking import intersection_over_union
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.attention_weights import rolled_out
from vtlm_fairseq.evaluation.plots import plot_layers
from vtlm_fairseq.evaluation.probes.entity_variants import boxed_heads
from vtlm_fairseq.evaluation.probes.layers import run_by_layer
from vtlm_fairseq.evaluation.scoring.scores import seed_statistics
from vtlm_fairseq.evaluation.splits import load_alignment
from vtlm_fairseq.evaluation.systems import LoadedModel, System, describe_regions, load_asked
from vtlm_fairseq.evaluation.tables import Cell, Table
from vtlm_fairseq.terminal import progress_bar
from vtlm_fairseq.text.nouns import Nouns
from vtlm_fairseq.text.pipeline import bpe_kind

LEAST_OVERLAP = 0.5
"""Intersection over union from which on a region is at a box, as in the evaluation of Flickr30k Entities."""


@dataclass(frozen=True)
class Word:
    """A word of a reference that names regions of its line, not all of them.

    Attributes:
        line: from 0.
        places: of its sub-words in the reference.
        right: [R] bool, the regions that it names.
    """

    line: int
    places: range
    right: np.ndarray


@dataclass
class Pointing:
    """What one checkpoint points at.

    Attributes:
        right: L x (1 + H), share of the words whose most attended region is right: by the mean of the heads, then by
            each head.
        rolled: the same of attention that is followed through the encoder.
        chance: share of right ones among the regions of a word, mean over words.
        words: how many these are.
        without: words that were left out: they name none or all of the regions of their line.
        regions: what made them.
    """

    right: Tensor
    rolled: Tensor
    chance: float
    words: int
    without: int
    regions: str


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    run_by_layer(args, measure=measure, table=table, plot=plot)


def measure(path: str, args: argparse.Namespace, *, label: str) -> Pointing:
    """Pointing of a checkpoint on a split.

    Raises:
        VTLMError: the split has no references, or none of its words is counted.
    """
    loaded = load_asked(path, args, translates=True)
    if loaded.dataset.tgt is None:
        raise VTLMError(f"{args.gen_subset} has no references, whose words could name regions")
    regions = loaded.dataset.regions
    words, without = defaultdict(list), 0
    for word in find_words(loaded, args):
        if 0 < word.right.sum() < len(word.right):
            words[word.line].append(word)
        else:
            without += 1
    if not words:
        raise VTLMError(
            f"{args.gen_subset}: no word names some and not all of the regions of its line; give words and their "
            "classes with --class-lexicon, or --entities"
        )
    found = []
    total = -(-len(loaded.dataset) // args.batch_size)
    batches = progress_bar(loaded.batches(args.batch_size), total=total, desc=label)
    for sample in batches:
        asked = [(row, word) for row, line in enumerate(sample["id"].tolist()) for word in words.get(line, ())]
        if asked:
            source = sample["net_input"]["src_tokens"].size(1)
            both = torch.stack(rolled_out(loaded.model, sample["net_input"]))[..., source:].flatten(0, 1)
            found += [points(both[:, :, row], word) for row, word in asked]
    every = [word for of_line in words.values() for word in of_line]
    right, rolled = torch.stack(found).double().mean(0).chunk(2)
    return Pointing(
        right=right,
        rolled=rolled,
        chance=float(np.mean([word.right.mean() for word in every])),
        words=len(every),
        without=without,
        regions=describe_regions(regions.store, "given"),
    )


def points(weights: Tensor, word: Word) -> Tensor:
    """L x (1 + H) bool: whether the most attended region is right, by the mean of the heads and by each head.

    Args:
        weights: L x H x T x at least R, attention on regions while target token t is predicted.
        word: of a sentence of T tokens. Its attention is the mean of that of its sub-words.
    """
    on_regions = weights[:, :, word.places.start : word.places.stop, : len(word.right)].mean(2)
    most = torch.cat([on_regions.mean(1, keepdim=True), on_regions], dim=1).argmax(-1)
    return torch.from_numpy(word.right)[most.cpu()]


def find_words(loaded: LoadedModel, args: argparse.Namespace) -> Iterator[Word]:
    """Words of the references and the regions that they name.

    Of ``--class-lexicon`` those that it has, with the regions of their class. Else translations of source nouns, with
    the regions at the noun's boxes in ``--entities``, or, without that, with the regions whose class is the noun.
    """
    dataset, dictionary = loaded.dataset, loaded.task.source_dictionary
    regions = dataset.regions
    text = Text((dataset.src, dataset.tgt), dictionary, bpe_kind(args.data, dictionary.symbols))
    if args.class_lexicon is not None:
        words = CaptionWords(dictionary.symbols, text.bpe)
        names = names_of_store(words, regions.store, args.class_lexicon, own=False)
        for line in range(len(text)):
            for first, behind, label in names.find(dataset.tgt[line][:-1].numpy()).tolist():
                yield Word(line, range(first, behind), regions[line].labels == label)
        return
    alignment = load_alignment(loaded.task, text.bpe)
    heads = None if args.entities is None else boxed_heads(Path(args.data), args.gen_subset, entities=args.entities)
    nouns = Nouns(regions.store.class_names)

    def places(line: int, words: Sequence[str]) -> Sequence[int]:
        return nouns.places(line, words) if heads is None else sorted(heads[line])

    for pair in find_pairs(text, alignment, places):
        if pair.target is None:
            continue
        if heads is None:
            right = regions[pair.line].labels == nouns.find(pair.word)
        else:
            place = [at for _, at in text.words(pair.line, 0)].index(pair.source)
            overlaps = intersection_over_union(np.array(heads[pair.line][place]), regions[pair.line].boxes)
            right = (overlaps >= LEAST_OVERLAP).any(0)
        yield Word(pair.line, pair.target, right)


def table(results: dict[System, list[Pointing]], args: argparse.Namespace) -> Table:
    """A row for each system and layer (and head), means over its seeds."""
    heads = ["head"] if args.per_head else []
    figures = ["right", "±", "rollout", "rollout ±", "chance"]
    made = Table(["system", "layer", *heads, *figures], [])
    made.precision = dict.fromkeys(figures, 1)
    made.title = f"Words whose most attended region is the right one, {args.gen_subset}, per cent"
    for system, seeds in results.items():
        right, rolled = (
            100 * torch.stack([getattr(seed, name) for seed in seeds])  # seeds x L x (1 + H)
            for name in ("right", "rolled")
        )
        chance = 100 * sum(seed.chance for seed in seeds) / len(seeds)
        for layer in range(right.size(1)):
            for head in range(1, right.size(2)) if args.per_head else (0,):
                found = [seed_statistics(of_seeds[:, layer, head].tolist())[:2] for of_seeds in (right, rolled)]
                place: list[Cell] = [layer + 1, head] if args.per_head else [layer + 1]
                made.rows.append([system.name, *place, *found[0], *found[1], chance])
        made.notes.append(
            f"{system.name}: {seeds[0].words:,} words; {seeds[0].without:,} that name none or all of the regions of "
            "their line are left out"
        )
    made.notes += dict.fromkeys(seed.regions for seeds in results.values() for seed in seeds)
    made.notes.append("rollout: with attention followed through the encoder to its input (Abnar and Zuidema 2020)")
    made.notes.append("chance: the share of right ones among the regions of a word's line")
    return made


def plot(results: dict[System, list[Pointing]], path: Path) -> None:
    """Draw the share of right ones of each system by layer, also rolled out, and dashed the chance."""
    right = {
        f"{system.name}{kind}": (100 * torch.stack([getattr(seed, name)[:, 0] for seed in seeds]).mean(0)).tolist()
        for system, seeds in results.items()
        for name, kind in (("right", ""), ("rolled", ", rollout"))
    }
    chance = {system.name: 100 * sum(seed.chance for seed in seeds) / len(seeds) for system, seeds in results.items()}
    plot_layers(path, right, chance, ylabel="right region attended most, %", what="chance")
