"""`vtlm-regions convert`: make a region store from files of other formats."""

import argparse
import os
from typing import Any

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, is_stream
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.options import add_options
from vtlm_fairseq.regions.formats.arrays import (
    NpyImages,
    NpzImages,
    read_sizes,
    to_relative_boxes,
)
from vtlm_fairseq.regions.formats.bottom_up_tsv import BottomUpImages
from vtlm_fairseq.regions.formats.coco_json import CocoImages
from vtlm_fairseq.regions.formats.input_image import InputImage
from vtlm_fairseq.regions.formats.pickles import PickleImages
from vtlm_fairseq.regions.store import MAX_REGIONS, RegionStoreWriter, say_beyond
from vtlm_fairseq.terminal import say
from vtlm_fairseq.text.image_ids import strip_extension

_STACKED = ("ids", "boxes", "labels", "scores")
_BELONGS = {
    "ids": "npy",
    "boxes": "npy",
    "labels": "npy",
    "scores": "npy",
    "tsv_columns": "bottom_up_tsv",
    "features": "coco_json",
    "coco_dataset": "coco_json",
}
"""The source that each further option goes with."""


def add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the parser of `vtlm-regions convert`."""
    convert = commands.add_parser(
        "convert",
        help="make a store from files of other formats",
        description="Make a store from numpy files (--npz, --npy), the pickles of the paper's authors, "
        "bottom-up-attention TSV files or COCO-format detections. Regions are stored best score first; nothing is left "
        "under --out unless all went well.",
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
    add_options(convert, "--dtype", "--strip-extension", "--overwrite")
    convert.add_argument("--detector", default="unknown", metavar="NAME", help="what made the regions, for the record")
    convert.add_argument("--out", required=True, metavar="STORE", help="the file to make, e.g. regions/train.h5")
    convert.set_defaults(run=run_convert)


def run_convert(args: argparse.Namespace) -> int:
    """Make a store."""
    if os.path.exists(args.out) and not args.overwrite and not is_stream(args.out):
        raise VTLMError(f"--out {args.out}: exists; remove it or add --overwrite")
    check_writable(args.out, label=f"--out {args.out}", streams=False)
    sizes = _check_options(args)
    images = _open(args)
    writer = RegionStoreWriter(
        args.out,
        feature_dim=images.feature_dim,
        class_names=_class_names(args, images),
        detector=args.detector,
        dtype=args.dtype,
    )
    count = 0
    total = len(images) if hasattr(images, "__len__") else None
    with writer:
        for image in tqdm(images, total=total, unit=" images", disable=None):
            count += 1
            if args.strip_extension:
                image = image._replace(image_id=strip_extension(image.image_id))
            _add(writer, image, yxyx=args.box_format == "yxyx", sizes=sizes)
    say(f"{args.out}: {count:,} images")
    beyond = writer.beyond(MAX_REGIONS)
    if beyond[0]:
        say(f"{args.out}: {say_beyond(beyond, MAX_REGIONS)}, the default of training")
    return 0


def _check_options(args: argparse.Namespace) -> dict[str, tuple[float, float]] | None:
    """Refuse options that have no effect on this source; returns the sizes of images, where given."""
    for name, source in _BELONGS.items():
        if getattr(args, name) is not None and getattr(args, source) is None:
            option, other = (f"--{n.replace('_', '-')}" for n in (name, source))
            more = "; with --npz the arrays are in the .npz files" if args.npz and name in _STACKED else ""
            raise VTLMError(f"{option} goes with {other}{more}")
    plain = args.npz is not None or args.npy is not None
    if not plain and (args.box_format != "xyxy" or args.box_units != "relative" or args.image_sizes is not None):
        raise VTLMError(
            "--box-format, --box-units and --image-sizes go with --npz and --npy; the other formats say how their "
            "boxes are"
        )
    if (args.box_units == "pixels") != (args.image_sizes is not None):
        raise VTLMError("--box-units pixels and --image-sizes FILE go together: give both or neither")
    return read_sizes(args.image_sizes) if args.image_sizes is not None else None


def _open(args: argparse.Namespace) -> Any:
    """The images of the source: an iterable of InputImage with `feature_dim`."""
    if args.npz is not None:
        return NpzImages(args.npz)
    if args.npy is not None:
        if args.ids is None:
            raise VTLMError("--npy needs --ids FILE, one image id a line")
        return NpyImages(args.npy, args.ids, boxes=args.boxes, labels=args.labels, scores=args.scores)
    if args.vtlm_pickles is not None:
        return PickleImages(args.vtlm_pickles)
    if args.bottom_up_tsv is not None:
        return BottomUpImages(args.bottom_up_tsv, args.tsv_columns)
    if args.features is None:
        raise VTLMError("--coco-json needs --features DIR, one .npy an image")
    return CocoImages(args.coco_json, args.features, args.coco_dataset)


def _add(
    writer: RegionStoreWriter, image: InputImage, *, yxyx: bool, sizes: dict[str, tuple[float, float]] | None
) -> None:
    boxes = image.boxes
    if boxes is None:
        boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (len(image.features), 1))
    else:
        boxes = to_relative_boxes(image, yxyx=yxyx, sizes=sizes)
    labels = np.zeros(len(image.features), dtype=np.int16) if image.labels is None else image.labels
    writer.add(image.image_id, features=image.features, boxes=boxes, labels=labels, scores=image.scores)


def _class_names(args: argparse.Namespace, images: Any) -> list[str]:
    if args.class_names is not None:
        return read_lines(args.class_names, label=f"--class-names {args.class_names}", filled=True)
    if args.num_classes is not None:
        return [f"class {c}" for c in range(args.num_classes)]
    if getattr(images, "class_names", None):
        return images.class_names
    if not images.has_labels:
        return ["region"]
    raise VTLMError("labels need --class-names FILE (one a line) or --num-classes N")
