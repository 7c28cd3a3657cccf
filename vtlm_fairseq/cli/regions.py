"""`vtlm-regions`: summarise, check, draw and join region stores, and make them from other formats."""

import argparse
from collections.abc import Sequence

from vtlm_fairseq.options import add_options
from vtlm_fairseq.regions import MAX_REGIONS
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
    _add_convert(commands)
    _add_merge(commands)
    _add_show(commands)
    return parser


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="make a store from files of other formats",
        description="Make a store from numpy files (--npz, --npy), the pickles of the paper's authors, "
        "bottom-up-attention TSV files or COCO-format detections. Regions are stored best score first. Killed at any "
        "moment, the same command goes on; until it is done its parts lie in STORE.parts.",
    )
    source = convert.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--npz",
        metavar="DIR",
        help="folder of ID.npz files with arrays features [R, D], boxes [R, 4], labels [R] and, optionally, "
        "scores [R]; the file name without .npz is the image id",
    )
    source.add_argument("--npy", metavar="FILE", help="features [N, R, D] of N images; needs --ids")
    source.add_argument(
        "--vtlm-pickles",
        metavar="DIR",
        help="folder of ID.pkl files as the paper's authors keep them; nothing in a pickle is run",
    )
    source.add_argument(
        "--bottom-up-tsv", metavar="FILE", help="bottom-up-attention features: base64 columns, boxes in pixels"
    )
    source.add_argument(
        "--coco-json", metavar="FILE", help="detections in COCO's format, boxes in pixels; needs --features"
    )
    stacked = convert.add_argument_group("with --npy")
    stacked.add_argument("--ids", metavar="FILE", help="image ids, one a line, in the order of the features")
    stacked.add_argument("--boxes", metavar="FILE", help="[N, R, 4]; default: each region is the whole image")
    stacked.add_argument(
        "--labels", metavar="FILE", help="[N, R] detector classes from 0; default: one class for all regions"
    )
    stacked.add_argument("--scores", metavar="FILE", help="[N, R]; default: 1.0, the order of the input is kept")
    tsv = convert.add_argument_group("with --bottom-up-tsv")
    tsv.add_argument(
        "--tsv-columns",
        metavar="NAMES",
        help="names of the columns in order, comma-separated, out of image_id image_w image_h num_boxes boxes features "
        "objects_id objects_conf and others; default: the known layout of that many columns (10, 8 or 6)",
    )
    coco = convert.add_argument_group("with --coco-json")
    coco.add_argument(
        "--features",
        metavar="DIR",
        help="one .npy [R, D] an image, row k for its k-th annotation, named after the image",
    )
    coco.add_argument(
        "--coco-dataset", metavar="FILE", help="images and categories, where --coco-json is a list of results"
    )
    classes = convert.add_mutually_exclusive_group()
    add_options(classes, "--class-names")
    classes.add_argument("--num-classes", type=int, metavar="N", help="number of classes, where names are not known")
    numpy = convert.add_argument_group("with --npz or --npy")
    numpy.add_argument("--box-format", choices=("xyxy", "yxyx"), default="xyxy", help="default: %(default)s")
    numpy.add_argument(
        "--box-units",
        choices=("relative", "pixels"),
        default="relative",
        help="relative: divided by image width and height (default); pixels: needs --image-sizes",
    )
    numpy.add_argument("--image-sizes", metavar="FILE", help="lines of: id TAB width TAB height, in pixels")
    add_options(convert, "--dtype", "--strip-extension")
    add_options(convert, "--overwrite", help="replace --out, and parts of an earlier conversion to it")
    work = convert.add_argument_group("work")
    text = (
        "list images that cannot be taken in STORE.errors.tsv, and end with status 3, in place of stopping at the first"
    )
    work.add_argument("--skip-bad", action="store_true", help=text)
    add_options(work, "--workers", default=0, help="processes that convert (default: %(default)s, this one)")
    add_options(work, "--shard", "--part-size")
    convert.add_argument("--detector", default="unknown", metavar="NAME", help="what made the regions, for the record")
    convert.add_argument("--out", required=True, metavar="STORE", help="the file to make, e.g. regions/train.h5")


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
