"""Options that probes share, read without PyTorch."""

import argparse
from dataclasses import dataclass

from vtlm_fairseq.ranges import positive, within
from vtlm_fairseq.regions.store import ORDERS


@dataclass(frozen=True)
class System:
    """One system: a name and a checkpoint for each seed."""

    name: str
    paths: tuple[str, ...]


def parse_system(text: str) -> System:
    """Read ``NAME=CKPT,CKPT,...``, for argparse; without ``NAME=`` the checkpoint's path is the name."""
    name, equals, paths = text.partition("=")
    files = (paths if equals else text).split(",")
    if not name or not all(files):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=CKPT,CKPT,...")
    return System(name if equals else text, tuple(files))


def add_model_options(
    parser: argparse.ArgumentParser, *, what: str, batch_size: int = 32, required: bool = True
) -> None:
    """Add ``--system``, ``--regions``, ``--any-detector``, ``--batch-size`` and ``--cpu``.

    Args:
        what: the kind of model and what several of them are, for the help.
        batch_size: default of ``--batch-size``.
        required: whether there must be a system.
    """
    parser.add_argument(
        "--system",
        "--path",
        dest="systems",
        type=parse_system,
        action="append",
        default=[],
        required=required,
        metavar="NAME=CKPT,CKPT",
        help=what,
    )
    parser.add_argument("--regions", default="none", metavar="STORE", help="for models with regions: as in training")
    parser.add_argument("--any-detector", action="store_true", help="regions may be of another detector")
    parser.add_argument("--batch-size", type=positive, default=batch_size, help="at once (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--gen-subset``, ``--beam`` and ``--lenpen``, named as fairseq-generate's."""
    parser.add_argument("--gen-subset", default="test", metavar="SPLIT", help="the test set (default: test)")
    parser.add_argument("--beam", type=positive, default=8, help="beam size (default: 8)")
    parser.add_argument("--lenpen", type=within("lenpen"), default=1.0, help="length penalty (default: 1)")


def add_system_options(parser: argparse.ArgumentParser, *, split: str = "test") -> None:
    """Add the options of probes that compare translation systems: systems, regions, test set, decoding.

    Args:
        split: default of ``--gen-subset``.
    """
    parser.add_argument("data", metavar="DATA", help="folder of binarised data")
    add_model_options(parser, what="a system and the checkpoints of its seeds; repeat for more systems", required=False)
    add_decoding_options(parser)
    parser.set_defaults(gen_subset=split)
    parser.add_argument("--region-order", choices=ORDERS, help="whose regions (default: as in training)")
