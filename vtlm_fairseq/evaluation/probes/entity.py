"""``vtlm-probe entity``: BLEU when nouns of the source are masked or removed (paper, section 3.2, Table 3)."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.evaluation.probes.entity_variants import MASKED, Choice, VariantSet, make_variants, write_variants
from vtlm_fairseq.evaluation.scoring.scores import TOKENISED, Figure, seed_statistics
from vtlm_fairseq.evaluation.systems import System, check_systems, describe_regions, system_regions
from vtlm_fairseq.evaluation.tables import Table, publish
from vtlm_fairseq.inference import Translator
from vtlm_fairseq.options import loading_options
from vtlm_fairseq.terminal import progress_bar
from vtlm_fairseq.text.subwords import MASK

NEVER_SAW_MASK = " *"


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    systems = check_systems(args.systems)
    if not systems and args.write is None:
        raise VTLMError("nothing to do: give --system NAME=CKPT,CKPT to translate, or --write DIR to keep the variants")
    for system in systems:
        for path in system.paths:
            system_regions(path, regions=args.regions, split=args.gen_subset)
    choice = Choice(what=args.what, whole_phrase=args.whole_phrase, boxed_only=args.boxed_only, count=args.count)
    variants = make_variants(Path(args.data), args.gen_subset, entities=args.entities, choice=choice)
    if args.write is not None:
        write_variants(args.write, variants, data=Path(args.data))
    if not systems:
        publish(variant_table(variants, choice), args)
        return
    scores = {system: score_system(system, variants, args) for system in systems}
    made = table(scores, variants, choice)
    regions = dict.fromkeys(one for scored in scores.values() for one in scored.regions)
    made.notes += regions or ["no regions"]
    publish(made, args)


@dataclass
class SystemScores:
    """BLEU of a system.

    Attributes:
        by_variant: for each variant, the score of each seed.
        scratch: whether a checkpoint was trained from scratch, and so has never seen ``<mask>``.
        regions: what made the regions of each checkpoint, and their order; none of a text-only model.
    """

    by_variant: dict[str, list[Figure]]
    scratch: bool = False
    regions: list[str] = field(default_factory=list)


def score_system(system: System, variants: VariantSet, args: argparse.Namespace) -> SystemScores:
    """Translate each variant with each seed of a system, and score it."""
    scores = SystemScores({name: [] for name in variants.variants})
    for path in system.paths:
        translator = Translator(
            [path], split=args.gen_subset, preprocessed=True, text_only=True, **loading_options(args)
        )
        scores.scratch = scores.scratch or not translator.config.get("pretrained")
        if translator.store is not None:
            scores.regions.append(describe_regions(translator.store, translator.region_order))
        for name, hypotheses in translate_variants(translator, variants, args, label=f"{system.name} {path}"):
            scores.by_variant[name].append(TOKENISED.score(hypotheses, variants.references))
    return scores


def translate_variants(
    translator: Translator, variants: VariantSet, args: argparse.Namespace, *, label: str
) -> Iterator[tuple[str, list[str]]]:
    """Translations of each variant, tokenised, by the variant's name."""
    pipeline = variants.pipeline
    for name, variant in progress_bar(variants.variants.items(), desc=printable(label)):
        pieces = translator.translate(
            variant.pieces,
            variants.images if translator.needs_images else None,
            beam=args.beam,
            lenpen=args.lenpen,
            batch_size=args.batch_size,
        )
        yield name, [pipeline.decode(line, pipeline.target_lang) for line in pieces]


def table(scores: dict[System, SystemScores], variants: VariantSet, choice: Choice) -> Table:
    """Means and deviations over the seeds of each system; a system that was never pre-trained is marked."""
    names = list(variants.variants)
    signatures = {figure.signature for system in scores.values() for figure in system.by_variant[MASKED]}
    notes = [f"means over seeds, ± deviation (n - 1); BLEU: {', '.join(sorted(signatures))}", *variants.notes(choice)]
    if any(system.scratch for system in scores.values()):
        notes.insert(0, f"{NEVER_SAW_MASK.strip()} trained from scratch: this system has never seen <mask>")
    made = Table(
        columns=["system", "seeds", *(column for name in names for column in (name, f"{name} ±"))],
        rows=[],
        title=f"Entity masking, BLEU on {variants.split}",
        notes=notes,
    )
    for system, scored in scores.items():
        row: list[str | int | float | None] = [system.name + NEVER_SAW_MASK * scored.scratch, len(system.paths)]
        for name in names:
            row += seed_statistics([figure.value for figure in scored.by_variant[name]])[:2]
        made.rows.append(row)
    return made


def variant_table(variants: VariantSet, choice: Choice) -> Table:
    """What the variants hold, where nothing is translated."""
    return Table(
        columns=["variant", "sentences", MASK, "sub-words", "<unk>"],
        rows=[[name, len(v.words), v.masks, v.tokens, v.unknown] for name, v in variants.variants.items()],
        title=f"Entity masking of {variants.split}",
        notes=variants.notes(choice),
    )
