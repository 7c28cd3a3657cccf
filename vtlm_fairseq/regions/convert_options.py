"""Options of ``vtlm-regions convert``."""

import argparse

from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, Range, reader
from vtlm_fairseq.regions.formats import presets

MOST_CLASSES = 32767
CONVERT = (
    "Make a store from numpy files (--npz, --npy), the pickles of the paper's authors, bottom-up-attention TSV files, "
    "COCO-format detections, or files of another project by a mapping of their fields (--layout). Regions are stored "
    "best score first. Killed at any moment, the same command goes on; until it is done its parts lie in STORE.parts."
)

UNKNOWN = "unknown"
"""Detector of regions of which none is named."""


def _number_of_classes(text: str) -> int:
    try:
        return MOST_CLASSES if text == "all" else int(reader(COUNT)(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: not a number of classes, nor all") from None


def add_convert_options(convert: argparse.ArgumentParser) -> None:
    """Add them to the command's parser."""
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
    source.add_argument(
        "--store",
        metavar="STORE",
        help="another region store: for its regions with classes (--pseudo-labels), other ids or another --dtype",
    )
    source.add_argument(
        "--layout",
        metavar="NAME",
        help=f"files of another project at --input: one of {', '.join(presets())}, or a mapping of your own, FILE.yaml "
        "(docs/formats.md)",
    )
    mapped = convert.add_argument_group("with --layout")
    mapped.add_argument("--input", metavar="PATH", help="the file or folder")
    mapped.add_argument(
        "--layout-set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="in place of what the layout says (repeatable)",
    )
    stacked = convert.add_argument_group("with --npy")
    stacked.add_argument(
        "--ids", metavar="FILE", help="image ids, one a line, in the order of the features; --layout: where it has none"
    )
    stacked.add_argument("--boxes", metavar="FILE", help="[N, R, 4]; default: each region is the whole image")
    stacked.add_argument(
        "--labels", metavar="FILE", help="[N, R] detector classes from 0; default: one class for all regions"
    )
    stacked.add_argument("--scores", metavar="FILE", help="[N, R]; default: 1.0, the order of the input is kept")
    stacked.add_argument(
        "--counts",
        metavar="FILE",
        help="[N] regions of each image, the rest is padding; --layout: the field that says it",
    )
    clustered = convert.add_argument_group("regions without labels")
    clustered.add_argument(
        "--pseudo-labels",
        metavar="K",
        help="classes are K clusters of the features of a sample (k-means), saved in STORE.clusters.npz; such a "
        "file of another split in place of K takes its clusters",
    )
    add_options(clustered, "--seed")
    convert.add_argument(
        "--soft-labels",
        type=_number_of_classes,
        metavar="K",
        help="keep class scores of each region, of its K best classes or of `all`, for --region-objectives mrc-kl: "
        "array soft_labels [R, C] of --npz, probabilities, or the field of a --layout",
    )
    padding = convert.add_mutually_exclusive_group()
    padding.add_argument(
        "--keep-empty",
        action="store_true",
        help="store regions whose features are all 0 or whose box has no area (default: they end the command)",
    )
    padding.add_argument("--drop-empty", action="store_true", help="leave such regions out")
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
    classes.add_argument(
        "--num-classes",
        type=reader(Range(1, MOST_CLASSES, whole=True)),
        metavar="N",
        help="number of classes, where names are not known",
    )
    numpy = convert.add_argument_group("with --npz or --npy; --image-sizes with --layout too")
    numpy.add_argument("--box-format", choices=("xyxy", "yxyx"), default="xyxy", help="default: %(default)s")
    numpy.add_argument(
        "--box-units",
        choices=("relative", "pixels"),
        default="relative",
        help="relative: divided by image width and height (default); pixels: needs --image-sizes",
    )
    numpy.add_argument("--image-sizes", metavar="FILE", help="lines of: id TAB width TAB height, in pixels")
    add_options(convert, "--dtype", "--strip-extension", "--id-rule")
    add_options(convert, "--overwrite", help="replace --out, and parts of an earlier conversion to it")
    work = convert.add_argument_group("work")
    text = (
        "list images that cannot be taken in STORE.errors.tsv, and end with status 3, in place of stopping at the first"
    )
    work.add_argument("--skip-bad", action="store_true", help=text)
    add_options(work, "--workers", default=0, help="processes that convert (default: %(default)s, this one)")
    add_options(work, "--shard", "--part-size")
    text = "what made the regions, for the record (default: %(default)s, or that of --store)"
    convert.add_argument("--detector", default=UNKNOWN, metavar="NAME", help=text)
    convert.add_argument("--out", required=True, metavar="STORE", help="the file to make, e.g. regions/train.h5")
