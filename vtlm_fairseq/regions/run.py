"""What the commands of ``vtlm-regions`` do."""

import argparse
import os
import re

import numpy as np
from tqdm import tqdm

from vtlm_fairseq.errors import VTLMError, printable
from vtlm_fairseq.files.inputs import refuse_existing, refuse_input
from vtlm_fairseq.regions import MAX_REGIONS
from vtlm_fairseq.regions.checks import beyond_image
from vtlm_fairseq.regions.conversion import run_convert
from vtlm_fairseq.regions.drawing import draw_regions, save_drawing
from vtlm_fairseq.regions.image_reading import open_image
from vtlm_fairseq.regions.merge import merge_stores
from vtlm_fairseq.regions.padding import flat_boxes, zero_rows
from vtlm_fairseq.regions.resolve import store_files
from vtlm_fairseq.regions.schema import ROOT_ATTRIBUTES, open_file
from vtlm_fairseq.regions.store import RegionStore, say_beyond, validate
from vtlm_fairseq.regions.suspicions import suspicions, take_sample
from vtlm_fairseq.regions.validate import find_missing
from vtlm_fairseq.terminal import progress_bar, say
from vtlm_fairseq.text.id_rules import AS_THERE, explain_missing
from vtlm_fairseq.text.overlap import shared_images

_SHOWN_FAULTS = 20
_SHOWN_CLASSES = 10
_SAMPLE_IMAGES, _SAMPLE_SECONDS = 2000, 5.0  # of each file, for warnings
_LABEL_BLOCK, _BOX_BLOCK = 1 << 24, 1 << 22


def run_info(args: argparse.Namespace) -> None:
    """Print a summary of each file of a store."""
    for number, path in enumerate(store_files(args.store, option="")):
        if number:
            say()
        for name, value in summarise(path).items():
            say(f"{name:<20}{printable(value)}")


def summarise(path: str) -> dict[str, str]:
    """Name and value of each line that `vtlm-regions info` prints of a store file.

    Raises:
        VTLMError: the file is not as the schema says.
    """
    store = RegionStore([path], max_regions=None)
    counts = store.counts(np.arange(len(store)))
    per_class = np.zeros(store.num_classes, dtype=np.int64)
    flat = outside = 0
    with open_file(path) as file:
        for start in range(0, store.num_regions, _BOX_BLOCK):
            boxes = file["boxes"][start : start + _BOX_BLOCK]
            flat += int(flat_boxes(boxes).sum())
            outside += int(beyond_image(boxes).sum())
        elsewhere = len(file["features"].virtual_sources()) if file["features"].is_virtual else 0
        for start in range(0, store.num_regions, _LABEL_BLOCK):
            per_class += np.bincount(file["labels"][start : start + _LABEL_BLOCK], minlength=store.num_classes)
    sample = take_sample(store, np.arange(len(store)))
    zero = int(zero_rows(sample.features).sum())
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
        "empty regions": f"{flat:,} boxes without area; "
        f"features all 0 in {zero:,} of {len(sample.labels):,} regions in a sample",
        **(
            {"beyond the image": f"{outside:,} boxes: must be within 0..1; see vtlm-regions validate"}
            if outside
            else {}
        ),
        "features": f"{store.feature_dim} x {store.dtype}" + (f", in {elsewhere} other files" if elsewhere else ""),
        "classes": f"{store.num_classes}, {int((per_class > 0).sum())} in use",
        **({"class scores": f"the best {store.num_soft} of each region"} if store.num_soft else {}),
        "commonest": ", ".join(f"{store.class_names[c]} {per_class[c]:,}" for c in commonest) or "none",
        "detector": store.detector,
        "created by": str(store.attributes["created_by"]),
    }
    lines.update({name: str(value) for name, value in store.attributes.items() if name not in ROOT_ATTRIBUTES})
    return lines


def run_validate(args: argparse.Namespace) -> int:
    """List the faults of each file of a store; 1 if there are any."""
    faults: list[str] = []
    found: list[str] = []
    files = store_files(args.store, option="")
    for path in files:
        with progress_bar(desc=printable(os.path.basename(path)), unit=" regions", unit_scale=True) as bar:

            def show(done: int, total: int, bar: tqdm = bar) -> None:
                bar.total = total
                bar.update(done - bar.n)

            empty: dict[str, int] = {}
            faults += validate(path, show, empty=empty)
        found += [f"{path}: {what} in {count:,} regions" for what, count in empty.items() if count]
    if not faults:
        faults += _faults_of_splits(args.store, files)
    if not faults:
        faults += [fault for images in args.images for fault in find_missing(files, images)]
    doubts = [] if faults else _doubts(files, args.images)
    rare = [line for line in found if not any(doubt.startswith(line.rsplit(" in ", 1)[0]) for doubt in doubts)]
    for warning in [*doubts, *(rare if not faults else [])]:
        say(f"warning: {warning}")
    for fault in faults[:_SHOWN_FAULTS]:
        say(fault)
    if len(faults) > _SHOWN_FAULTS:
        say(f"... and {len(faults) - _SHOWN_FAULTS} more")
    say(f"{args.store}: {len(faults)} faults" if faults else f"{args.store}: ok")
    return 1 if faults else 0


def run_merge(args: argparse.Namespace) -> None:
    """Join stores."""
    refuse_existing(args)
    shards = [path for shard in args.shards for path in store_files(shard, option="")]
    with progress_bar(unit=" images", disable=not args.copy) as bar:
        store = merge_stores(shards, args.out, copy=args.copy, on_progress=lambda done: bar.update(done - bar.n))
    say(f"{args.out}: {len(store):,} images, {store.num_regions:,} regions from {len(shards)} files")


def run_show(args: argparse.Namespace) -> None:
    """Draw the regions of an image."""
    refuse_input(args.out, [args.image, args.store], label=f"--out {args.out}")
    refuse_existing(args)
    store = RegionStore(store_files(args.store, option=""), args.max_regions, repeats=True)
    try:
        regions = store[int(store.rows([args.image_id])[0])]
    except VTLMError:
        if args.image_id in (known := store.ids()):
            raise
        hint = explain_missing([args.image_id], known, AS_THERE)
        raise VTLMError(f"{args.store}: no image {args.image_id[:99]!r} is there{hint}") from None
    save_drawing(draw_regions(open_image(args.image), regions, store.class_names), args.out)
    say(f"{args.out}: {len(regions.labels)} regions")


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


COMMANDS = {"convert": run_convert, "info": run_info, "merge": run_merge, "show": run_show, "validate": run_validate}
"""Each may return an exit status: 1 where `validate` found faults."""
