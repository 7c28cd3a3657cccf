"""`vtlm-regions`: summarise, check, draw and join region stores, and make them from other formats."""

import argparse
import os
import re
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.cli.regions_convert import add_convert
from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.files import check_writable, is_stream
from vtlm_fairseq.options import add_options
from vtlm_fairseq.regions.drawing import draw_regions, save_drawing
from vtlm_fairseq.regions.image_reading import open_image
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.schema import ROOT_ATTRIBUTES, open_file
from vtlm_fairseq.regions.store import MAX_REGIONS, RegionStore, say_beyond, validate
from vtlm_fairseq.regions.suspicions import suspicions, take_sample
from vtlm_fairseq.regions.validate import find_missing
from vtlm_fairseq.terminal import command_line, say
from vtlm_fairseq.text.overlap import shared_images

_SHOWN_FAULTS = 20
_SHOWN_CLASSES = 10
_SAMPLE_IMAGES, _SAMPLE_SECONDS = 2000, 5.0  # of each file, for warnings
_LABEL_BLOCK = 1 << 24


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 1 where `validate` found faults.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
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
    check.set_defaults(run=run_validate)
    add_convert(commands)
    _add_merge(commands)
    _add_show(commands)
    return parser


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
    merge.set_defaults(run=run_merge)


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
    show.set_defaults(run=run_show)


def run_info(args: argparse.Namespace) -> int:
    """Print a summary of each file of a store."""
    for number, path in enumerate(store_files(args.store, option="")):
        if number:
            say()
        for name, value in summarise(path).items():
            say(f"{name:<20}{printable(value)}")
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
        elsewhere = len(file["features"].virtual_sources()) if file["features"].is_virtual else 0
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
        "left out": say_beyond(store.beyond(np.arange(len(counts)), MAX_REGIONS), MAX_REGIONS) + ", the default",
        "images without any": f"{int((counts == 0).sum()):,}",
        "features": f"{store.feature_dim} x {store.dtype}" + (f", in {elsewhere} other files" if elsewhere else ""),
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
    files = store_files(args.store, option="")
    for path in files:
        with tqdm(desc=printable(os.path.basename(path)), unit=" regions", unit_scale=True, disable=None) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            faults += validate(path, show)
    if not faults:
        faults += _faults_of_splits(args.store, files)
    if not faults:
        faults += [fault for images in args.images for fault in find_missing(files, images)]
    for warning in [] if faults else _doubts(files, args.images):
        say(f"warning: {warning}")
    for fault in faults[:_SHOWN_FAULTS]:
        say(fault)
    if len(faults) > _SHOWN_FAULTS:
        say(f"... and {len(faults) - _SHOWN_FAULTS} more")
    say(f"{args.store}: {len(faults)} faults" if faults else f"{args.store}: ok")
    return 1 if faults else 0


def run_merge(args: argparse.Namespace) -> int:
    """Join stores."""
    _refuse_existing(args)
    shards = [path for shard in args.shards for path in store_files(shard, option="")]
    with tqdm(unit=" images", disable=None if args.copy else True) as bar:
        store = merge_stores(shards, args.out, copy=args.copy, on_progress=lambda done: bar.update(done - bar.n))
    say(f"{args.out}: {len(store):,} images, {store.num_regions:,} regions from {len(shards)} files")
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Draw the regions of an image."""
    _refuse_existing(args)
    store = RegionStore(store_files(args.store, option=""), args.max_regions, repeats=True)
    regions = store[int(store.rows([args.image_id])[0])]
    save_drawing(draw_regions(open_image(args.image), regions, store.class_names), args.out)
    say(f"{args.out}: {len(regions.labels)} regions")
    return 0


def _refuse_existing(args: argparse.Namespace) -> None:
    if os.path.exists(args.out) and not args.overwrite and not is_stream(args.out):
        raise VTLMError(f"--out {args.out}: exists; remove it or add --overwrite")
    check_writable(args.out, label=f"--out {args.out}")


def _doubts(files: list[str], images: list[str]) -> list[str]:
    """What is valid and probably useless."""
    found = []
    for path in files:
        store = RegionStore([path], max_regions=None)
        sample = take_sample(store, np.arange(len(store)), images=_SAMPLE_IMAGES, seconds=_SAMPLE_SECONDS)
        found += [f"{path}: {line}" for line in suspicions(store, sample, labels=True)]
    train = [path for path in images if re.fullmatch(r"train\d*\.images", os.path.basename(path))]
    return found + (shared_images(train, [path for path in images if path not in train]) if train else [])


def _faults_of_splits(store: str, files: list[str]) -> list[str]:
    """In a folder: whether the files of each split (train.h5, or train.0.h5, train.1.h5) fit together."""
    faults = []
    for split in sorted({os.path.basename(path).split(".")[0] for path in files}) if os.path.isdir(store) else ():
        try:
            RegionStore(store_files(store, split, option=""))
        except VTLMError as error:
            faults.append(str(error))
    return faults


if __name__ == "__main__":
    raise SystemExit(main())
