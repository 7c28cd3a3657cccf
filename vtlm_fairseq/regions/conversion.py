"""A region store from files of other formats."""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files import check_writable, is_stream
from vtlm_fairseq.ranges import option
from vtlm_fairseq.regions import MAX_REGIONS, numbered_classes
from vtlm_fairseq.regions.class_names import read_class_names
from vtlm_fairseq.regions.conversion_plan import (
    check_unchanged,
    make_plan,
    refuse_own_input,
    share_of,
    states_of,
)
from vtlm_fairseq.regions.convert_options import MOST_CLASSES, UNKNOWN
from vtlm_fairseq.regions.converting import Conversion
from vtlm_fairseq.regions.formats.arrays import NpyImages, NpzImages
from vtlm_fairseq.regions.formats.bottom_up_tsv import BottomUpImages
from vtlm_fairseq.regions.formats.coco_json import CocoImages
from vtlm_fairseq.regions.formats.image_sizes import ImageSizes, read_sizes, to_relative_boxes
from vtlm_fairseq.regions.formats.input_image import InputImage, Listed
from vtlm_fairseq.regions.formats.layout import read_layout
from vtlm_fairseq.regions.formats.mapped import MappedImages
from vtlm_fairseq.regions.formats.pickles import PickleImages
from vtlm_fairseq.regions.formats.region_store import StoreImages
from vtlm_fairseq.regions.padding import check_padding
from vtlm_fairseq.regions.parts import SOME_FAILED, Part, Parts
from vtlm_fairseq.regions.progress import ListedProgress, NumberedProgress, Progress
from vtlm_fairseq.regions.pseudo_labels import Clusters, find_clusters
from vtlm_fairseq.regions.store import RegionStore, say_beyond
from vtlm_fairseq.regions.suspicions import equal_scores, suspicions, take_sample
from vtlm_fairseq.terminal import progress_bar, say
from vtlm_fairseq.text.id_rules import IdRule

_SOURCES = ("npz", "npy", "vtlm_pickles", "bottom_up_tsv", "coco_json", "store", "input")
_STACKED = ("boxes", "labels", "scores")
_IN_THE_FILES = "; with --npz the arrays are in the .npz files"
_BELONGS = {
    "boxes": "npy",
    "labels": "npy",
    "scores": "npy",
    "tsv_columns": "bottom_up_tsv",
    "features": "coco_json",
    "coco_dataset": "coco_json",
    "input": "layout",
}
"""The source that each further option goes with."""


def run_convert(args: argparse.Namespace) -> int:
    """Make a store; 0, or 3 where some images could not be taken."""
    check_writable(args.out, label=f"--out {args.out}", streams=False)
    refuse_own_input(args)
    _check_options(args)
    rule = args.id_rule.and_extension(args.strip_extension)
    sizes = None if args.image_sizes is None else read_sizes(args.image_sizes, rule)
    source = open_source(args)
    listed = source.listed()
    before = states_of(args, source)
    plan, inputs = make_plan(args, source, listed)
    with Parts(args.out, plan, kind="conversion", overwrite=args.overwrite, inputs=inputs) as parts:
        if parts.made:
            return SOME_FAILED if parts.leave() else 0
        if args.soft_labels is not None and not source.has_soft_labels:
            raise VTLMError("--soft-labels keeps class scores, and this source has none; leave it out")
        clusters = None
        whole = parts.whole()
        if args.pseudo_labels is not None:
            _check_unlabelled(args, source)
            clusters = find_clusters(args.pseudo_labels, source, args.out, seed=args.seed, resumed=bool(whole))
        share = share_of(args, source, listed)
        progress = _progress(args, rule, source, listed, share, whole)
        class_names = _class_names(args, source) if clusters is None else clusters.class_names
        _check_number(args, class_names)
        num_soft = 0 if clusters is not None else args.soft_labels or getattr(source, "num_soft", 0)
        conversion = Conversion(
            source,
            label=_input(args),
            rule=rule,
            prepare=partial(
                _prepare,
                yxyx=args.box_format == "yxyx",
                rule=rule,
                sizes=sizes,
                pixels=getattr(source, "pixels", False),
                clusters=clusters,
                soft_labels=num_soft > 0,
            ),
            padding=partial(check_padding, keep=args.keep_empty, drop=args.drop_empty),
            writer={
                "feature_dim": source.feature_dim,
                "class_names": class_names,
                "detector": getattr(source, "detector", UNKNOWN) if args.detector == UNKNOWN else args.detector,
                "dtype": args.dtype,
                "num_soft": min(num_soft, len(class_names)),
            },
            listed=listed,
            end=None if share is None else share.stop,
            skip_bad=args.skip_bad,
        )
        with progress_bar(total=None if share is None else len(share), unit=" images") as bar:
            workers = 0 if share is None else args.workers
            conversion.make(parts, progress, workers=workers, on_progress=bar.update)
        check_unchanged(before, source, listed, share)
        stores, rows, failures = progress.joined(parts.whole())
        with progress_bar(total=len(rows), desc="joining", unit=" images") as bar:
            parts.join(stores, rows, failures, lambda done: bar.update(done - bar.n))
    say(f"{args.out}: {len(rows):,} images")
    if failures:
        say(f"{len(failures):,} images left out, see {parts.errors}")
    if not is_stream(args.out):
        _warn(args.out)
    return SOME_FAILED if failures else 0


def _check_unlabelled(args: argparse.Namespace, source: Any) -> None:
    """Refuse to replace labels that are there."""
    if source.has_labels:
        raise VTLMError("--pseudo-labels is for regions without labels, and these have some")
    if args.class_names is not None or args.num_classes is not None:
        raise VTLMError("--pseudo-labels has classes of its own; omit --class-names and --num-classes")


def _warn(path: str) -> None:
    """Say what of a new store training would not read, and what is valid and probably useless."""
    store = RegionStore([path], MAX_REGIONS)
    rows = np.arange(len(store))
    beyond = store.beyond(rows)
    if beyond[0]:
        equal = "; their scores are all equal, so that training needs the number" * equal_scores(store, rows)
        say(f"{path}: warning: {say_beyond(beyond, MAX_REGIONS)}, the default of training{equal}")
    for line in suspicions(store, take_sample(store, rows), labels=True):
        say(f"{path}: warning: {line}")


def _progress(
    args: argparse.Namespace,
    rule: IdRule,
    source: Any,
    listed: Sequence[Listed] | None,
    share: range | None,
    whole: dict[int, Part],
) -> Progress:
    options = {"size": args.part_size, "rule": rule, "skip_bad": args.skip_bad}
    if listed is not None and share is not None:
        return ListedProgress(listed, share, whole, feature_dim=source.feature_dim, **options)
    first, total = (0, None) if share is None else (share.start, len(share))
    return NumberedProgress(_input(args), first, total, whole, **options)


def _input(args: argparse.Namespace) -> str:
    """The file or folder that is converted."""
    return next(value for name in _SOURCES if (value := getattr(args, name, None)) is not None)


def _check_options(args: argparse.Namespace) -> None:
    """Refuse options that have no effect on this source."""
    for name, source in _BELONGS.items():
        if getattr(args, name) is not None and getattr(args, source) is None:
            more = _IN_THE_FILES if args.npz and name in _STACKED else ""
            raise VTLMError(f"{option(name)} goes with {option(source)}{more}")
    if args.ids is not None and args.npy is None and args.layout is None:
        raise VTLMError("--ids goes with --npy and --layout" + _IN_THE_FILES * (args.npz is not None))
    if args.counts is not None and args.npy is None and args.layout is None:
        raise VTLMError("--counts goes with --npy and --layout")
    if args.layout is not None:
        if args.box_format != "xyxy" or args.box_units != "relative":
            raise VTLMError(
                "--box-format and --box-units of a --layout are --layout-set box_format=... and box_units=..."
            )
        return
    if args.layout_set:
        raise VTLMError("--layout-set goes with --layout")
    plain = args.npz is not None or args.npy is not None
    if not plain and (args.box_format != "xyxy" or args.box_units != "relative" or args.image_sizes is not None):
        raise VTLMError(
            "--box-format, --box-units and --image-sizes go with --npz and --npy; the other formats say how their "
            "boxes are"
        )
    if (args.box_units == "pixels") != (args.image_sizes is not None):
        raise VTLMError("--box-units pixels and --image-sizes FILE go together: give both or neither")


def open_source(args: argparse.Namespace) -> Any:
    """The images of the source: an iterable of InputImage with `feature_dim`.

    Raises:
        VTLMError: it cannot be read, or needs another option.
    """
    if args.layout is not None:
        if args.input is None:
            raise VTLMError("--layout needs --input, the file or folder")
        layout = read_layout(args.layout, [*args.layout_set, *([f"counts={args.counts}"] if args.counts else [])])
        soft = args.soft_labels is not None
        return MappedImages(layout, args.input, ids=args.ids, class_names=_given_names(args), soft_labels=soft)
    if args.npz is not None:
        return NpzImages(args.npz)
    if args.npy is not None:
        if args.ids is None:
            raise VTLMError("--npy needs --ids FILE, one image id a line")
        beside = {name: getattr(args, name) for name in (*_STACKED, "counts")}
        return NpyImages(args.npy, args.ids, **beside)
    if args.vtlm_pickles is not None:
        return PickleImages(args.vtlm_pickles)
    if args.bottom_up_tsv is not None:
        return BottomUpImages(args.bottom_up_tsv, args.tsv_columns)
    if args.store is not None:
        return StoreImages(args.store)
    if args.features is None:
        raise VTLMError("--coco-json needs --features DIR, one .npy an image")
    return CocoImages(args.coco_json, args.features, args.coco_dataset)


def _prepare(
    image: InputImage,
    *,
    yxyx: bool,
    rule: IdRule,
    sizes: ImageSizes | None,
    pixels: bool,
    clusters: Clusters | None,
    soft_labels: bool,
) -> tuple[str, dict[str, Any]]:
    """Id and arrays of an image as the options say."""
    image = image._replace(image_id=rule(image.image_id))
    if pixels and sizes is None and image.size is None:
        raise VTLMError(
            f"{image.source}: image {image.image_id!r}: boxes are in pixels, and the file does not say of how "
            "many; give --image-sizes FILE"
        )
    boxes = image.boxes
    if boxes is None:
        boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (len(image.features), 1))
    else:
        boxes = to_relative_boxes(image, yxyx=yxyx, sizes=sizes)
    labels = np.zeros(len(image.features), dtype=np.int16) if image.labels is None else image.labels
    if clusters is not None:
        labels = clusters.label(image.features)
    arrays = {"features": image.features, "boxes": boxes, "labels": labels, "scores": image.scores}
    if soft_labels:
        arrays["soft_labels"] = image.soft_labels
    return image.image_id, arrays


def _given_names(args: argparse.Namespace) -> list[str] | None:
    """Names of the classes by the options."""
    if args.class_names is not None:
        hint = ""
        if args.layout is not None:
            hint = "--layout-set label_offset=1"
        elif args.bottom_up_tsv is not None:
            hint = "--layout lxmert --input FILE --layout-set label_offset=1 (10 columns)"
        elif args.npz is not None or args.npy is not None:
            hint = "taking 1 off each in the files"
        return read_class_names(args.class_names, hint)
    return None if args.num_classes is None else numbered_classes(args.num_classes)


def _check_number(args: argparse.Namespace, class_names: list[str]) -> None:
    if not 1 <= len(class_names) <= MOST_CLASSES:
        where = _input(args) if args.class_names is None else f"--class-names {args.class_names}"
        raise VTLMError(f"{where}: {len(class_names):,} classes, must be 1 to {MOST_CLASSES:,}")


def _class_names(args: argparse.Namespace, images: Any) -> list[str]:
    given = _given_names(args)
    if given is not None:
        return given
    if getattr(images, "class_names", None):
        return images.class_names
    if not images.has_labels:
        return ["cell" if getattr(images, "grid", False) else "region"]
    raise VTLMError("labels need --class-names FILE (one a line) or --num-classes N")
