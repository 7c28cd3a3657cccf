"""Options that probes share, read without PyTorch."""

import argparse
from dataclasses import dataclass

from vtlm_fairseq.options import add_options


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
    add_options(parser, "--regions", "--any-detector", "--cpu")
    add_options(parser, "--batch-size", default=batch_size)


def add_system_options(parser: argparse.ArgumentParser, *, split: str = "test") -> None:
    """Add the options of probes that compare translation systems: systems, regions, test set, decoding.

    Args:
        split: default of ``--gen-subset``.
    """
    add_options(parser, "data", "--beam", "--lenpen", "--region-order")
    add_options(parser, "--gen-subset", default=split)
    add_model_options(parser, what="a system and the checkpoints of its seeds; repeat for more systems", required=False)
