#!/usr/bin/env python
"""`vtlm-regions convert` of an LMDB, beside plain reads of the same bytes by one process.

    python benchmarks/converting.py --out DIR [--images 4000] [--record uniter] [--workers 2] [--repeats 3]

Generates an LMDB in UNITER's layout and measures in turn, with the file in the page cache:

* bytes: one process copies each value out of the LMDB (a cursor, `bytes(value)`);
* arrays: and unpacks it to numpy arrays (msgpack, one copy), with which nothing is done;
* copied: and writes their features to a file, the least that any conversion does;
* checked: the reader of `--layout` alone, whose process unpacks and checks them and hands them over;
* convert: the whole command with its start, checks, parts and the store at its end.

Images a second of the clock, and milliseconds of processor time an image (user and system, all processes): on a shared
machine these are the steadier figure.
"""

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import lmdb
import msgpack
import numpy as np

from vtlm_fairseq.regions.formats.layout import read_layout
from vtlm_fairseq.regions.formats.mapped import MappedImages

CLASSES = 1600
RECORDS = {"uniter": (36, 2048, CLASSES), "small": (10, 64, 20)}
"""Regions, width of the features and classes of an image."""

_DISTINCT = 64  # images; keys differ
_BECOME_REAPER = 36  # PR_SET_CHILD_SUBREAPER


class Taken(NamedTuple):
    """Seconds of the clock, and of the processors."""

    clock: float
    work: float


def main(argv: list[str] | None = None) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated data, which stay")
    parser.add_argument("--images", type=int, default=4000, help="default: %(default)s")
    parser.add_argument("--record", choices=RECORDS, default="uniter", help="of an image (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="of the command (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="turns, of which the median counts")
    parser.add_argument("--json", action="store_true", help="figures as JSON")
    args = parser.parse_args(argv)
    folder = args.out / f"{args.record}-{args.images}"
    if not folder.exists():
        write(folder, args.record, args.images)
    ctypes.CDLL(None).prctl(_BECOME_REAPER, 1, 0, 0, 0)  # processes that outlive the command count as well
    ways: dict[str, Callable[[], None]] = {
        "bytes": lambda: read(folder, bytes),
        "arrays": lambda: read(folder, unpacked),
        "copied": lambda: copy(folder, args.out / "features"),
        "checked": lambda: check(folder, args.record),
        "convert": lambda: convert(folder, args.out / "store.h5", args.record, args.workers),
    }
    ways["bytes"]()  # into the page cache
    turns = [{name: taken(way) for name, way in ways.items()} for _ in range(args.repeats)]
    found = {name: Taken(*(median(one) for one in zip(*(turn[name] for turn in turns), strict=True))) for name in ways}
    figures = {
        name: {"images_per_s": args.images / one.clock, "work_ms": 1e3 * one.work / args.images}
        for name, one in found.items()
    }
    for name in list(ways)[:-1]:
        figures["convert"][f"rate_of_{name}"] = found[name].clock / found["convert"].clock
        figures["convert"][f"work_of_{name}"] = found["convert"].work / found[name].work
    if args.json:
        print(json.dumps(figures))
    else:
        for name, values in figures.items():
            print(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in values.items()))
    return 0


def taken(way: Callable[[], None]) -> Taken:
    """What a call takes, processes that it starts included."""
    start, before = time.perf_counter(), _work()
    way()
    return Taken(time.perf_counter() - start, _work() - before)


def _work() -> float:
    """Seconds of processor time of this process and of those that it started and that have ended."""
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            break
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def read(folder: Path, way: Callable[[memoryview], object]) -> None:
    """Go through the values of an LMDB."""
    with lmdb.open(str(folder), readonly=True, lock=False, readahead=False) as environment:
        with environment.begin(buffers=True) as transaction:
            for _, value in transaction.cursor():
                way(value)


def unpacked(value: memoryview) -> dict:
    """Arrays of a value."""
    return msgpack.unpackb(value, raw=False, strict_map_key=False, object_hook=_array)


def _array(content: dict) -> object:
    if b"nd" not in content:
        return content
    return np.frombuffer(content[b"data"], content[b"type"]).reshape(content[b"shape"])


def copy(folder: Path, path: Path) -> None:
    """Write the features to a file, which goes again."""
    with open(path, "wb", buffering=0) as file:
        read(folder, lambda value: file.write(unpacked(value)["features"]))
    path.unlink()


def check(folder: Path, record: str) -> None:
    """Read the images as the command does."""
    layout = read_layout("uniter", [f"feature_dim={RECORDS[record][1]}"])
    source = MappedImages(layout, str(folder))
    for image in source.images():
        if isinstance(image, Exception):
            raise image
    source.close()


def convert(folder: Path, store: Path, record: str, workers: int) -> None:
    """Run the command."""
    command = [sys.executable, "-m", "vtlm_fairseq.cli.regions", "convert", "--layout", "uniter", "--input", folder]
    command += ["--layout-set", f"feature_dim={RECORDS[record][1]}", "--num-classes", RECORDS[record][2]]
    command += ["--workers", workers, "--overwrite", "--out", store]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def write(folder: Path, record: str, images: int, *, seed: int = 1) -> None:
    """Make an LMDB in UNITER's layout, as msgpack; images repeat after 64, with other keys."""
    regions, width, classes = RECORDS[record]
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(min(images, _DISTINCT)):
        corners = np.sort(rng.random((2, regions, 2), np.float32), axis=0)
        corners[1] = np.minimum(1, corners[1] + 0.01)
        parts = {
            "features": np.maximum(0, rng.standard_normal((regions, width), np.float32)),
            "norm_bb": np.hstack([*corners, corners[1] - corners[0]]),
            "conf": rng.random(regions, np.float32),
            "soft_labels": rng.random((regions, classes + 1), np.float32) / classes,
        }
        packed = {name: _packed(part.astype(np.float16)) for name, part in parts.items()}
        values.append(msgpack.packb(packed, use_bin_type=True))
    size = 2 * images * (max(map(len, values)) + 8192)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=size) as environment, environment.begin(write=True) as transaction:
        for number in range(images):
            transaction.put(f"{number:08}.npz".encode(), values[number % len(values)], append=True)


def _packed(array: np.ndarray) -> dict:
    return {b"nd": True, b"type": array.dtype.str, b"kind": b"", b"shape": array.shape, b"data": array.tobytes()}


if __name__ == "__main__":
    sys.exit(main())
