"""`vtlm-regions`: summarise, check, draw and join region stores, and make them from other formats."""

import argparse
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.options import add_options
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.regions.convert_options import CONVERT, add_convert_options
from vtlm_fairseq.terminal import command_line


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 where `validate` found faults.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    from vtlm_fairseq.regions.run import COMMANDS

    return COMMANDS[args.command](args) or 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of `vtlm-regions`."""
    parser = argparse.ArgumentParser(
        prog="vtlm-regions",
        description="Region stores: what --regions of the training and decoding commands reads.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="summarise a store", description="Summarise a store.")
    info.add_argument("store", metavar="STORE", help="a store file, or a folder of .h5 store files")
    check = commands.add_parser(
        "validate",
        help="check every value of a store",
        description="Check schema, finite values, box ranges and the order of scores. "
        "In a folder, shards of a split are checked together. Lists the first 20 faults; exit status 1 if there are "
        "any.",
    )
    check.add_argument("store", metavar="STORE", help="a store file, or a folder of .h5 store files")
    check.add_argument(
        "--images",
        metavar="FILE",
        action="append",
        default=[],
        help="{split}.images, an id a line: check that the store has them all (repeatable)",
    )
    add_convert_options(
        commands.add_parser("convert", help="make a store from files of other formats", description=CONVERT)
    )
    _add_merge(commands)
    _add_show(commands)
    return finish(parser)


def _add_merge(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    merge = commands.add_parser(
        "merge",
        help="join stores to one",
        description="Join stores of one detector in the order given. The features stay in the shards, to which the "
        "new file refers by relative path (an HDF5 virtual dataset): keep them where they are, beside or below it.",
    )
    merge.add_argument("shards", metavar="SHARD", nargs="+", help="store files, or folders of .h5 store files")
    merge.add_argument("--out", required=True, metavar="STORE", help="the file to make")
    merge.add_argument("--copy", action="store_true", help="copy the features too; the shards are no longer needed")
    add_options(merge, "--overwrite")


def _add_show(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    show = commands.add_parser(
        "show",
        help="draw the regions of an image",
        description="Draw boxes, labels and scores of an image's regions on it.",
    )
    show.add_argument("store", metavar="STORE", help="a store file, or a folder of .h5 store files")
    show.add_argument("image_id", metavar="ID", help="image id in the store")
    show.add_argument("--image", required=True, metavar="FILE", help="the image itself")
    show.add_argument("--out", required=True, metavar="PNG", help="drawing to make, .png or .jpg")
    add_options(show, "--max-regions", default=MAX_REGIONS, help="draw the N most confident (default: %(default)s)")
    add_options(show, "--overwrite")


if __name__ == "__main__":
    raise SystemExit(main())
