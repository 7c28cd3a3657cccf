"""``vtlm-extract``: photos to a region store, by a detector.

Killed at any moment, the same command goes on from where it was. Images that cannot be read, or with which the detector
fails, are listed in STORE.errors.tsv (id, path, reason between tabs), and the exit status is 3; 1 is a fault that
stopped the run.
"""

import argparse
import sys
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.extract.detectors import list_detectors
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, FINITE, FROM_ZERO, reader
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.terminal import command_line


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 3 where some images failed.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    from vtlm_fairseq.extract.run import run

    return run(args)


def _grid(text: str) -> list[int]:
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(f"{text}: not ROWSxCOLUMNS, such as 14x14")
    return [int(side) for side in sides]


def _side(text: str) -> int:
    if not text.isdecimal() or not int(text) or int(text) % 8:
        raise argparse.ArgumentTypeError(f"{text}: not a multiple of 8, such as 1024")
    return int(text)


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-extract``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-extract", description="Extract regions from images with a detector: photos to a region store."
    )
    add = parser.add_argument
    add(
        "--images",
        required=True,
        help="a folder (read recursively; the id is the file name without ending), a text file with a line PATH or "
        "ID<TAB>PATH an image, or tar files in webdataset's layout ('shards/*.tar'; the id is the key)",
    )
    add_options(parser, "--id-rule")
    text = "tar: put the name of the tar file before the key, where keys repeat from file to file"
    add("--id-prefix", choices=("tar",), help=text)
    text = "images to leave out: an id or a path a line, or a STORE.errors.tsv"
    add("--exclude", metavar="FILE", help=text)
    add("--detector", required=True, help="one of " + ", ".join(list_detectors()) + ", or one of --detector-file")
    add("--detector-file", metavar="FILE.py", help="Python file with a detector of your own")
    add("--out", required=True, metavar="STORE", help="region store to make, e.g. regions/train.h5")
    add_options(parser, "--overwrite", help="replace --out, and parts of an earlier extraction to it")
    add_options(parser, "--max-regions", default=MAX_REGIONS, help="keep the N most confident (default: %(default)s)")
    add_options(parser, "--dtype")
    detector = parser.add_argument_group("detector (those that it has no use for are refused)")
    add = detector.add_argument
    add("--model", help="file, folder or name of its model")
    add("--weights", metavar="FILE", help="weights of your own")
    add_options(detector, "--class-names")
    add("--min-score", type=reader(FINITE), metavar="S", help="drop regions below this confidence (default: 0)")
    add("--grid", type=_grid, metavar="RxC", help="rows x columns of cells, such as 14x14 (default: the model's own)")
    add("--pool", action="store_true", default=None, help="average the model's own grid down to --grid")
    add("--boxes", metavar="STORE", help="region store whose boxes, labels and scores are taken")
    text = "scale images to PIXELS, a multiple of 8, on the longer side, so that those of different sizes share batches"
    add("--letterbox", type=_side, metavar="PIXELS", help=text)
    add("--fp16", action="store_true", default=None, help="half precision, faster on a GPU")
    add("--device", help="cpu, cuda or cuda:N (default: cpu)")
    add("--threads", type=reader(COUNT), metavar="N", help="threads of the detector on the CPU (default: 1)")
    work = parser.add_argument_group("work")
    add_options(work, "--batch-size", default=8, help="images a batch (default: %(default)s)")
    add_options(work, "--workers", default=2, help="processes that read images (default: %(default)s)")
    add = work.add_argument
    text = "share the images among N runs, each with its own --out (default: %(default)s)"
    add("--num-shards", type=reader(COUNT), default=1, metavar="N", help=text)
    add("--shard-id", type=reader(FROM_ZERO), default=0, metavar="I", help="which of them this is, from 0")
    add_options(work, "--shard", default=None, help="I/N: the same as --shard-id I --num-shards N")
    add_options(work, "--part-size")
    return finish(parser)


if __name__ == "__main__":
    sys.exit(main())
