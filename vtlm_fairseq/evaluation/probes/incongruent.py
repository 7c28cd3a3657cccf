"""``vtlm-probe incongruent``: what BLEU loses with other images' regions, and without any (paper, section 3.2)."""

from __future__ import annotations

import argparse
import statistics
from argparse import Namespace
from dataclasses import dataclass

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED, paired_bootstrap
from vtlm_fairseq.evaluation.splits import in_order
from vtlm_fairseq.evaluation.systems import LoadedModel, load_asked, named_checkpoints
from vtlm_fairseq.evaluation.tables import Cell, Table, publish
from vtlm_fairseq.inference import best_hypotheses
from vtlm_fairseq.text.pipeline import bpe_kind


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    checkpoints = list(named_checkpoints(args.systems))
    made = Table(
        ["system", "regions", "BLEU", "drop", "p"],
        [],
        title=f"BLEU on {args.gen_subset} with given, shuffled and hidden regions",
        precision={"p": 4},
    )
    signatures: dict[str, None] = {}
    about: dict[str, None] = {}
    for name, path in checkpoints:
        outputs = translate_orders(path, args)
        if outputs.others:
            about[f'{name}: regions "{outputs.detector}"'] = None
        else:
            about[f"{name}: a text-only model, on which regions have no effect"] = None
        rows, signature = compare(outputs)
        made.rows += [[name, *row] for row in rows]
        signatures[signature] = None
    made.notes = [
        f"drop: BLEU with given regions minus this; p: sacreBLEU's paired bootstrap; BLEU: {', '.join(signatures)}"
    ]
    if any(row[1] == "shuffle" for row in made.rows):
        made.notes.append(f"shuffle: mean of {args.repeats} shufflings, p is the greatest of theirs")
    made.notes += about
    publish(made, args)


@dataclass(frozen=True)
class Outputs:
    """Translations of a test set by one model.

    Attributes:
        references: tokenised.
        given: with the lines' own regions (or without any, for a text-only model).
        others: ``shuffle`` and ``none`` -> the translations of each repeat; empty for a text-only model.
        detector: what made the regions; empty for a text-only model.
    """

    references: list[str]
    given: list[str]
    others: dict[str, list[list[str]]]
    detector: str = ""


def compare(outputs: Outputs) -> tuple[list[list[Cell]], str]:
    """Order of regions, BLEU, drop and p value of each order, and sacreBLEU's signature.

    Of several repeats, BLEU and drop are means and p is the greatest.
    """
    given = TOKENISED.score(outputs.given, outputs.references)
    rows: list[list[Cell]] = [["given" if outputs.others else "none", given.value, 0.0, None]]
    for order, repeats in outputs.others.items():
        found = [paired_bootstrap(texts, outputs.given, outputs.references) for texts in repeats]
        bleu = statistics.fmean(one.score for one in found)
        rows.append([order, bleu, given.value - bleu, max(one.p_value for one in found)])
    return rows, given.signature


def translate_orders(path: str, args: argparse.Namespace) -> Outputs:
    """Translate a split with each order of regions.

    Raises:
        VTLMError: a fault of input or options.
    """
    loaded = load_asked(path, args, region_order="given", translates=True)
    dataset, dictionary = loaded.dataset, loaded.task.target_dictionary
    if dataset.tgt is None:
        raise VTLMError(
            f"{args.data}: {args.gen_subset} has no references, which BLEU needs; binarise its target side too"
        )
    regions = dataset.regions
    bpe = bpe_kind(args.data, dictionary.symbols)
    references = [dictionary.string(dataset.tgt[i], bpe, escape_unk=True) for i in range(len(dataset))]

    def translations(order: str, seed: int = 1) -> list[str]:
        dataset.regions = in_order(regions, order, seed=seed)
        return decode(loaded, args, bpe=bpe)

    given = translations("given")
    if regions is None:
        return Outputs(references, given, {})
    shuffled = [translations("shuffle", args.seed + repeat) for repeat in range(args.repeats)]
    return Outputs(references, given, {"shuffle": shuffled, "none": [translations("none")]}, regions.store.detector)


def decode(loaded: LoadedModel, args: argparse.Namespace, *, bpe: str) -> list[str]:
    """Tokenised translations of a split's lines, as fairseq-generate makes them."""
    options = Namespace(beam=args.beam, lenpen=args.lenpen, max_len_a=args.max_len_a, max_len_b=args.max_len_b)
    generator = loaded.task.build_generator([loaded.model], options)
    texts = [""] * len(loaded.dataset)
    for line, found in best_hypotheses(loaded.task, [loaded.model], generator, loaded.batches(args.batch_size)):
        texts[line] = loaded.task.target_dictionary.string(found, bpe)
    return texts
