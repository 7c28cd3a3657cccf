"""A region store from files of other formats."""

import argparse
import os
from typing import Any

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, is_stream
from vtlm_fairseq.files.lines import read_lines
from vtlm_fairseq.ranges import option
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.regions.formats.arrays import NpyImages, NpzImages, read_sizes, to_relative_boxes
from vtlm_fairseq.regions.formats.bottom_up_tsv import BottomUpImages
from vtlm_fairseq.regions.formats.coco_json import CocoImages
from vtlm_fairseq.regions.formats.input_image import InputImage
from vtlm_fairseq.regions.formats.pickles import PickleImages
from vtlm_fairseq.regions.store import RegionStoreWriter, say_beyond
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


def run_convert(args: argparse.Namespace) -> None:
    """Make a store."""
    refuse_existing(args, streams=False)
    sizes = _check_options(args)
    images = open_source(args)
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


def refuse_existing(args: argparse.Namespace, *, streams: bool = True) -> None:
    """Find out before the work that ``--out`` may not be written.

    Raises:
        VTLMError: it exists and ``--overwrite`` is not given, or as `check_writable`.
    """
    if os.path.exists(args.out) and not args.overwrite and not is_stream(args.out):
        raise VTLMError(f"--out {args.out}: exists; remove it or add --overwrite")
    check_writable(args.out, label=f"--out {args.out}", streams=streams)


def _check_options(args: argparse.Namespace) -> dict[str, tuple[float, float]] | None:
    """Refuse options that have no effect on this source; returns the sizes of images, where given."""
    for name, source in _BELONGS.items():
        if getattr(args, name) is not None and getattr(args, source) is None:
            more = "; with --npz the arrays are in the .npz files" if args.npz and name in _STACKED else ""
            raise VTLMError(f"{option(name)} goes with {option(source)}{more}")
    plain = args.npz is not None or args.npy is not None
    if not plain and (args.box_format != "xyxy" or args.box_units != "relative" or args.image_sizes is not None):
        raise VTLMError(
            "--box-format, --box-units and --image-sizes go with --npz and --npy; the other formats say how their "
            "boxes are"
        )
    if (args.box_units == "pixels") != (args.image_sizes is not None):
        raise VTLMError("--box-units pixels and --image-sizes FILE go together: give both or neither")
    return read_sizes(args.image_sizes) if args.image_sizes is not None else None


def open_source(args: argparse.Namespace) -> Any:
    """The images of the source: an iterable of InputImage with `feature_dim`.

    Raises:
        VTLMError: it cannot be read, or needs another option.
    """
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
