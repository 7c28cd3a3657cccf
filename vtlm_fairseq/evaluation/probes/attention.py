"""``vtlm-probe attention``: cross-attention mass on regions by decoder layer (paper, section 3.3, Figure 2)."""

import argparse
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import torch
from fairseq.data import data_utils
from torch import Tensor

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.attention_weights import cross_attention, region_mass
from vtlm_fairseq.evaluation.plots import plot_layers
from vtlm_fairseq.evaluation.probes.layers import run_by_layer
from vtlm_fairseq.evaluation.scoring.scores import seed_statistics
from vtlm_fairseq.evaluation.systems import LoadedModel, System, describe_regions, load_asked
from vtlm_fairseq.evaluation.tables import Cell, Table
from vtlm_fairseq.terminal import progress_bar


def run(args: argparse.Namespace) -> None:
    """Run the probe.

    Raises:
        VTLMError: a fault of input or options.
    """
    run_by_layer(args, measure=measure, table=table, plot=plot)


@dataclass
class Masses:
    """Attention mass of one checkpoint.

    Attributes:
        mass: L x H, mean over sentences.
        uniform: mean of R/(R+T) over the same sentences.
        sentences: how many these are.
        without: sentences left out because they have no region.
        regions: what made them, and their order.
    """

    mass: Tensor
    uniform: float
    sentences: int
    without: int
    regions: str


def measure(path: str, args: Namespace, *, label: str) -> Masses:
    """Attention mass of a checkpoint on a split.

    Raises:
        VTLMError: no sentence has a region, or the split has no references.
    """
    loaded = load_asked(path, args, translates=True)
    generator = None
    if args.on == "hypotheses":
        generator = loaded.task.build_generator([loaded.model], Namespace(beam=args.beam, lenpen=args.lenpen))
    masses, shares, without = [], [], 0
    total = -(-len(loaded.dataset) // args.batch_size)
    batches = progress_bar(loaded.batches(args.batch_size), total=total, desc=label)
    for sample in batches:
        net_input = sample["net_input"]
        if generator is not None:
            net_input = {**net_input, "prev_output_tokens": hypothesis_inputs(loaded, generator, sample)}
        elif "prev_output_tokens" not in net_input:
            raise VTLMError(f"{args.gen_subset} has no references; give --on hypotheses")
        pad = loaded.task.source_dictionary.pad()
        found = region_mass(
            cross_attention(loaded.model, net_input),
            text_mask=net_input["src_tokens"].ne(pad),
            region_padding_mask=net_input.get("region_padding_mask"),
            target_mask=net_input["prev_output_tokens"].ne(pad),
        )
        masses.append(found.mass.cpu().double())
        shares.append(found.uniform.cpu().double())
        without += found.without
    mass, uniform = torch.cat(masses, dim=-1), torch.cat(shares)
    if not len(uniform):
        raise VTLMError(f"no sentence of {args.gen_subset} has a region; see --regions and --region-order")
    regions = describe_regions(loaded.dataset.regions.store, loaded.task.option("region_order"))
    return Masses(mass.mean(-1), float(uniform.mean()), len(uniform), without, regions)


def hypothesis_inputs(loaded: LoadedModel, generator, sample: dict) -> Tensor:
    """Decode a batch; the decoder's inputs (B x T, ``</s> t1 ... tm``) that produced each best hypothesis."""
    dictionary = loaded.task.target_dictionary
    hypotheses = loaded.task.inference_step(generator, [loaded.model], sample)
    return data_utils.collate_tokens(
        [best[0]["tokens"] for best in hypotheses], dictionary.pad(), dictionary.eos(), move_eos_to_beginning=True
    )


def table(results: dict[System, list[Masses]], args: Namespace) -> Table:
    """A row for each system and layer (and head), means over its seeds."""
    heads = ["head"] if args.per_head else []
    precision = dict.fromkeys(("mass", "±", "uniform"), 4)
    made = Table(["system", "layer", *heads, "mass", "±", "uniform"], [], precision=precision)
    targets = "references" if args.on == "references" else f"best hypotheses of beam {args.beam}"
    made.title = f"Cross-attention mass on regions, {args.gen_subset}, {targets}"
    for system, seeds in results.items():
        masses = torch.stack([seed.mass for seed in seeds])  # seeds x L x H
        uniform = sum(seed.uniform for seed in seeds) / len(seeds)
        for layer in range(masses.size(1)):
            columns = masses[:, layer].T if args.per_head else masses[:, layer].mean(-1, keepdim=True).T
            for head, values in enumerate(columns.tolist(), 1):
                mean, deviation, _ = seed_statistics(values)
                place: list[Cell] = [layer + 1, head] if args.per_head else [layer + 1]
                made.rows.append([system.name, *place, mean, deviation, uniform])
        made.notes.append(
            f"{system.name}: {seeds[0].sentences:,} sentences, {seeds[0].without:,} without regions left out"
        )
    made.notes += dict.fromkeys(seed.regions for seeds in results.values() for seed in seeds)
    made.notes.append("uniform: mean of R/(R+T), R regions and T source positions, both </s> included")
    return made


def plot(results: dict[System, list[Masses]], path: Path) -> None:
    """Draw the mass of each system by layer, and dashed the uniform share."""
    masses = {
        system.name: torch.stack([seed.mass.mean(-1) for seed in seeds]).mean(0).tolist()
        for system, seeds in results.items()
    }
    shares = {system.name: sum(seed.uniform for seed in seeds) / len(seeds) for system, seeds in results.items()}
    plot_layers(path, masses, shares, ylabel="attention mass on regions", what="uniform")
