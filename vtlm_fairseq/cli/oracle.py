"""``vtlm-oracle``: oracle regions of Multi30k's images from Flickr30k Entities, as region stores."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.corpora.oracle_features import NOISE
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, FINITE, NOT_NEGATIVE, reader
from vtlm_fairseq.terminal import command_line


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.raw is None and args.translated_captions is None:
        parser.error("give --raw, or --translated-captions")
    from vtlm_fairseq.corpora.entities_regions import run

    run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-oracle``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-oracle",
        description="Oracle regions of Multi30k's images from Flickr30k Entities: stores made without a detector.",
    )
    add = parser.add_argument
    add("--entities", type=Path, required=True, help="Flickr30k Entities: its folder or the .tgz")
    add("--raw", type=Path, help="folder of Multi30k's raw text ({split}.en, plain or .gz)")
    add_options(parser, "--image-splits")
    add("--splits", default="train,val,test_2016_flickr", help="splits to write, of these three")
    add("--out", type=Path, required=True, help="folder for train.h5, valid.h5, ...")
    add(
        "--translated-captions",
        type=Path,
        help="lines `image id<TAB>number from 0` that name the caption to put aside, instead of looking it up in --raw",
    )
    add("--every-caption", action="store_true", help="train.h5 holds regions of each caption of an image, IMAGE#0 to "
        "IMAGE#4, from its other captions")  # fmt: skip
    add("--feature-dim", type=reader(COUNT), default=1536, help="width of the features")
    add("--subspace", type=reader(COUNT), metavar="N", help="signal and noise lie in N dimensions of the features, as "
        "those of detectors do (default: all); give the --noise that --calibrate finds")  # fmt: skip
    add_options(parser, "--seed", help="seed of prototypes and noise (default: %(default)s)")
    add("--noise", type=reader(NOT_NEGATIVE), default=NOISE, help="standard deviation of the noise; prototypes have 1")
    add("--signal", type=reader(FINITE), default=1.0, help="factor of the prototypes; 0: noise only (control)")
    add("--no-boxes", action="store_true", help="store 0,0,1,1 for every box (control)")
    add(
        "--calibrate",
        action="store_true",
        help="only print the --noise at which 70 %% of the val labels are read right by the nearest prototype",
    )
    return finish(parser)


if __name__ == "__main__":
    sys.exit(main())
