"""`vtlm-regions`: summarise and check region stores, and make them from numpy files."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.cli.regions_input import (
    Image,
    NpyImages,
    NpzImages,
    read_lines,
    read_sizes,
    to_relative_boxes,
)
from vtlm_fairseq.data.region_schema import ROOT_ATTRIBUTES, open_file
from vtlm_fairseq.data.region_store import RegionStore, RegionStoreWriter, validate
from vtlm_fairseq.errors import VTLMError, exit_on_error

_SHOWN_FAULTS = 20
_SHOWN_CLASSES = 10
_LABEL_BLOCK = 1 << 24


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 where `validate` found faults.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    with exit_on_error():
        return args.run(args)


def build_parser() -> argparse.ArgumentParser:
    """The parser of `vtlm-regions`."""
    parser = argparse.ArgumentParser(
        prog="vtlm-regions",
        description="Region stores: what --regions of the training and decoding commands reads.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="summarise a store", description="Summarise a store.")
    info.add_argument("store", metavar="STORE", help="a store file, or a folder of .h5 store files")
    info.set_defaults(run=run_info)
    check = commands.add_parser(
        "validate",
        help="check every value of a store",
        description="Check schema, finite values, box ranges and the order of scores. "
        "Lists the first 20 faults; exit status 1 if there are any.",
    )
    check.add_argument("store", metavar="STORE", help="a store file, or a folder of .h5 store files")
    check.set_defaults(run=run_validate)
    _add_convert(commands)
    return parser


def _add_convert(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    convert = commands.add_parser(
        "convert",
        help="make a store from numpy files",
        description="Make a store from one .npz file an image (--npz), or from stacked arrays (--npy). "
        "Regions are stored best score first; nothing is left under --out unless all went well.",
    )
    source = convert.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--npz",
        metavar="DIR",
        help="folder of ID.npz files with arrays features [R, D], boxes [R, 4], labels [R] and, optionally, "
        "scores [R]; the file name without .npz is the image id",
    )
    source.add_argument("--npy", metavar="FILE", help="features [N, R, D] of N images; needs --ids")
    stacked = convert.add_argument_group("with --npy")
    stacked.add_argument("--ids", metavar="FILE", help="image ids, one a line, in the order of the features")
    stacked.add_argument("--boxes", metavar="FILE", help="[N, R, 4]; default: each region is the whole image")
    stacked.add_argument(
        "--labels", metavar="FILE", help="[N, R] detector classes from 0; default: one class for all regions"
    )
    stacked.add_argument("--scores", metavar="FILE", help="[N, R]; default: 1.0, the order of the input is kept")
    classes = convert.add_mutually_exclusive_group()
    classes.add_argument("--class-names", metavar="FILE", help="names of the classes, one a line, without background")
    classes.add_argument("--num-classes", type=int, metavar="N", help="number of classes, where names are not known")
    convert.add_argument("--box-format", choices=("xyxy", "yxyx"), default="xyxy", help="default: %(default)s")
    convert.add_argument(
        "--box-units",
        choices=("relative", "pixels"),
        default="relative",
        help="relative: divided by image width and height (default); pixels: needs --image-sizes",
    )
    convert.add_argument("--image-sizes", metavar="FILE", help="lines of: id TAB width TAB height, in pixels")
    convert.add_argument("--dtype", choices=("float16", "float32"), default="float16", help="default: %(default)s")
    convert.add_argument("--detector", default="unknown", metavar="NAME", help="what made the regions, for the record")
    convert.add_argument("--out", required=True, metavar="STORE", help="the file to make, e.g. regions/train.h5")
    convert.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    convert.set_defaults(run=run_convert)


def run_info(args: argparse.Namespace) -> int:
    """Print a summary of each file of a store."""
    for number, path in enumerate(_store_files(args.store)):
        if number:
            print()
        for name, value in summarise(path).items():
            print(f"{name:<20}{value}")
    return 0


def summarise(path: str) -> dict[str, str]:
    """Name and value of each line that `vtlm-regions info` prints of a store file.

    Raises:
        VTLMError: the file is not as the schema says.
    """
    store = RegionStore([path], max_regions=None)
    counts = store.counts(np.arange(len(store)))
    per_class = np.zeros(store.num_classes, dtype=np.int64)
    with open_file(path) as file:
        for start in range(0, store.num_regions, _LABEL_BLOCK):
            per_class += np.bincount(file["labels"][start : start + _LABEL_BLOCK], minlength=store.num_classes)
    commonest = [c for c in np.argsort(-per_class, kind="stable")[:_SHOWN_CLASSES] if per_class[c]]
    lines = {
        "store": path,
        "size": f"{os.path.getsize(path) / 2**20:,.1f} MiB",
        "images": f"{store.num_images:,}",
        "regions": f"{store.num_regions:,}",
        "regions per image": f"min {counts.min()}, median {np.median(counts):g}, max {counts.max()}"
        if len(counts)
        else "none",
        "images without any": f"{int((counts == 0).sum()):,}",
        "features": f"{store.feature_dim} x {store.dtype}",
        "classes": f"{store.num_classes}, {int((per_class > 0).sum())} in use",
        "commonest": ", ".join(f"{store.class_names[c]} {per_class[c]:,}" for c in commonest) or "none",
        "detector": store.detector,
        "created by": str(store.attributes["created_by"]),
    }
    lines.update({name: str(value) for name, value in store.attributes.items() if name not in ROOT_ATTRIBUTES})
    return lines


def run_validate(args: argparse.Namespace) -> int:
    """List the faults of each file of a store; 1 if there are any."""
    faults: list[str] = []
    files = _store_files(args.store)
    for path in files:
        with tqdm(desc=os.path.basename(path), unit=" regions", unit_scale=True, disable=None) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            faults += validate(path, show)
    for fault in faults[:_SHOWN_FAULTS]:
        print(fault)
    if len(faults) > _SHOWN_FAULTS:
        print(f"... and {len(faults) - _SHOWN_FAULTS} more")
    print(f"{args.store}: {len(faults)} faults" if faults else f"{args.store}: ok")
    return 1 if faults else 0


def run_convert(args: argparse.Namespace) -> int:
    """Make a store from numpy files."""
    if os.path.exists(args.out) and not args.overwrite:
        raise VTLMError(f"--out {args.out}: exists; remove it or add --overwrite")
    if (args.box_units == "pixels") != (args.image_sizes is not None):
        raise VTLMError("--box-units pixels and --image-sizes FILE go together: give both or neither")
    images: NpzImages | NpyImages
    if args.npz is not None:
        given = [f"--{n}" for n in ("ids", "boxes", "labels", "scores") if getattr(args, n) is not None]
        if given:
            raise VTLMError(f"{given[0]} goes with --npy; with --npz the arrays are in the .npz files")
        images = NpzImages(args.npz)
    else:
        if args.ids is None:
            raise VTLMError("--npy needs --ids FILE, one image id a line")
        images = NpyImages(args.npy, args.ids, boxes=args.boxes, labels=args.labels, scores=args.scores)
    sizes = read_sizes(args.image_sizes) if args.image_sizes is not None else None
    writer = RegionStoreWriter(
        args.out,
        feature_dim=images.feature_dim,
        class_names=_class_names(args),
        detector=args.detector,
        dtype=args.dtype,
    )
    with writer:
        for image in tqdm(images, total=len(images), unit=" images", disable=None):
            _add(writer, image, yxyx=args.box_format == "yxyx", sizes=sizes)
    print(f"{args.out}: {len(images):,} images")
    return 0


def _add(writer: RegionStoreWriter, image: Image, *, yxyx: bool, sizes: dict[str, tuple[float, float]] | None) -> None:
    boxes = image.boxes
    if boxes is None:
        boxes = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (len(image.features), 1))
    else:
        boxes = to_relative_boxes(image, yxyx=yxyx, sizes=sizes)
    labels = np.zeros(len(image.features), dtype=np.int16) if image.labels is None else image.labels
    writer.add(image.image_id, features=image.features, boxes=boxes, labels=labels, scores=image.scores)


def _class_names(args: argparse.Namespace) -> list[str]:
    if args.class_names is not None:
        return read_lines(args.class_names, "--class-names")
    if args.num_classes is not None:
        return [f"class {c}" for c in range(args.num_classes)]
    if args.npy is not None and args.labels is None:
        return ["region"]
    raise VTLMError("labels need --class-names FILE (one a line) or --num-classes N")


def _store_files(store: str) -> list[str]:
    if not os.path.isdir(store):
        if not os.path.isfile(store):
            raise VTLMError(f"{store}: no such file or folder")
        return [store]
    files = sorted(str(p) for p in Path(store).glob("*.h5"))
    if not files:
        raise VTLMError(f"{store}: no .h5 file in that folder")
    return files


if __name__ == "__main__":
    raise SystemExit(main())
