"""What probes of cross-attention have in common: figures of multimodal systems by decoder layer."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.systems import System, check_systems, system_regions
from vtlm_fairseq.evaluation.tables import Table, publish

Figures = TypeVar("Figures")


def run_by_layer(
    args: argparse.Namespace,
    *,
    measure: Callable[..., Figures],
    table: Callable[[dict[System, list[Figures]], argparse.Namespace], Table],
    plot: Callable[[dict[System, list[Figures]], Path], None],
) -> None:
    """Measure every checkpoint of every system, publish the table, and draw it where ``--plot`` asks for that.

    Args:
        args: of the command.
        measure: of a checkpoint, given its path, the arguments, and the system's name as ``label``.
        table: of the figures of each system's seeds.
        plot: draws them into a file.

    Raises:
        VTLMError: a fault of input or options.
    """
    systems = systems_with_regions(args)
    results = {system: [measure(path, args, label=system.name) for path in system.paths] for system in systems}
    try:
        publish(table(results, args), args)
    finally:
        if args.plot is not None:
            plot(results, args.plot)


def systems_with_regions(args: argparse.Namespace) -> list[System]:
    """The systems of a command; each must have regions to attend to.

    Raises:
        VTLMError: one has none, there is none, or no such store.
    """
    systems = check_systems(args.systems)
    if not systems:
        raise VTLMError("no system: give --system NAME=CKPT,CKPT")
    for system in systems:
        for path in system.paths:
            config, regions = system_regions(path, regions=args.regions, split=args.gen_subset)
            if regions == "none" and config["region_dim"]:
                raise VTLMError(f"{path}: a model with regions; name their store with --regions")
            if regions == "none":
                raise VTLMError(f"{path}: has no regions to attend to; give a multimodal model, and --regions")
    return systems
