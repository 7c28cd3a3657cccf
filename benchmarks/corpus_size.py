#!/usr/bin/env python
"""Preparation and start of training at the size of a large corpus, on generated data.

    python benchmarks/corpus_size.py --out DIR [--pairs 3100000] [--workers 2] [--updates 20]

Generates captions (image, URL, English, German) and a region store of 36 x 1536 float16 an image, a sparse file that
takes next to no room on the disk, prepares them with `prepare_captions.py`, trains `vtlm_tiny` for a few updates, and
prints how long each took, how long until the first update, and the largest memory. Nothing here says anything about
quality, or about the speed of a disk.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
from worker_memory import children, resident

import vtlm_fairseq
from vtlm_fairseq.regions.schema import SCHEMA_VERSION

REGIONS, DIM, CLASSES = 36, 1536, 601
ROOT = Path(__file__).resolve().parents[1]
USER_DIR = str(Path(vtlm_fairseq.__file__).parent)
_BLOCK = 10_000


def main(argv: list[str] | None = None) -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated data")
    parser.add_argument("--pairs", type=int, default=3_100_000, help="triplets, an image each (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=50_000, help="BPE pieces (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the preparation (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=20, help="updates of 64 pairs (default: %(default)s)")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    captions, store, data = args.out / "captions.tsv", args.out / "regions.h5", args.out / "bin"
    if not captions.exists():
        write_captions(captions, args.pairs)
        write_store(store, args.pairs)
    print(f"{args.pairs:,} pairs; features {args.pairs * REGIONS * DIM * 2 / 1e9:,.0f} GB in a sparse file")
    status = 0
    if not data.exists():
        command = [sys.executable, ROOT / "preprocess" / "prepare_captions.py", "--train", captions, "--out", data]
        command += ["--regions", store, "--valid-size", max(1, min(5000, args.pairs // 20))]
        command += ["--vocab-size", args.vocab_size, "--workers", args.workers]
        status = report("preparation", Measured(command, args.out / "prepare.log"))
    if status == 0:
        training = Measured(train_command(data, store, args.updates), args.out / "train.log")
        status = report("training", training)
        if training.first_update is not None:
            print(f"training: first update after {training.first_update:.1f} s", end="")
            print(f", then {training.update_time:.3f} s an update" if training.update_time else "")
    return status


def train_command(data: Path, store: Path, updates: int) -> list:
    """fairseq-train of a tiny model for a few updates, each of them logged."""
    options = (
        "--task visual_translation_lm --arch vtlm_tiny --criterion vtlm --optimizer adam --lr 1e-4 --batch-size 64"
    )
    options += f" --max-update {updates} --cpu --num-workers 1 --no-save --disable-validation"
    options += " --log-format json --log-interval 1"
    command = [sys.executable, "-u", "-m", "fairseq_cli.train", data, "--user-dir", USER_DIR, "--regions", store]
    return [*command, *options.split()]


class Measured:
    """A command, run to its end: status, duration, memory, and when fairseq-train logged its updates.

    Attributes:
        status: its exit status.
        seconds: its duration.
        largest: resident memory of its largest process, in bytes.
        together: the largest sum over its processes, in bytes, what they share counted once.
        first_update: seconds until the first update was logged; None without one.
        update_time: median seconds between updates; None for fewer than three.
    """

    def __init__(self, command: list, log: Path) -> None:
        self.largest = self.together = 0
        start = time.perf_counter()
        times = []
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        watch = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watch.start()
        with open(log, "w", encoding="utf-8") as file:
            for line in process.stdout:
                file.write(line)
                found = re.search(r'\{"epoch": .*\}$', line.strip())
                if found and "num_updates" in json.loads(found.group()):
                    times.append(time.perf_counter() - start)
        self.status = process.wait()
        watch.join()
        self.seconds = time.perf_counter() - start
        self.first_update = times[0] if times else None
        steps = np.diff(times)
        self.update_time = statistics.median(steps) if len(steps) > 1 else None

    def _watch(self, process: subprocess.Popen) -> None:
        while process.poll() is None:
            pids = list(family(process.pid))
            self.largest = max([self.largest, *(1024 * resident(pid)[0] for pid in pids)])
            self.together = max(self.together, sum(proportional(pid) for pid in pids))
            time.sleep(0.5)


def report(name: str, measured: Measured) -> int:
    """Print what a command took; returns its status."""
    print(
        f"{name}: status {measured.status}, {measured.seconds:,.1f} s, largest process "
        f"{measured.largest / 1e9:.2f} GB, all processes together {measured.together / 1e9:.2f} GB"
    )
    return measured.status


def family(pid: int) -> Iterator[int]:
    """A process and all that it started, directly or not."""
    yield pid
    for child in children(pid):
        yield from family(child)


def proportional(pid: int) -> int:
    """Bytes of a process's memory, each shared page divided by the number of its users (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def write_captions(path: Path, pairs: int, *, words: int = 60_000, seed: int = 1) -> None:
    """Write lines of image, URL, English and German between tabs, 4 to 12 words of a Zipf-like lexicon a side."""
    rng = np.random.default_rng(seed)
    syllables = np.array([c + v + e for c in "bdfgklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "st")])
    lexicon = {
        lang: ["".join(rng.choice(syllables, rng.integers(1, 4))) for _ in range(words)] for lang in ("en", "de")
    }
    with open(path, "w", encoding="utf-8") as file:
        for start in range(0, pairs, _BLOCK):
            size = min(_BLOCK, pairs - start)
            lengths = rng.integers(4, 13, (2, size))
            drawn = np.minimum((rng.pareto(0.7, (2, size, 12)) * 20).astype(np.int64), words - 1)
            for i in range(size):
                sides = [
                    " ".join(lexicon[lang][w] for w in drawn[side, i, : lengths[side, i]]) + "."
                    for side, lang in enumerate(("en", "de"))
                ]
                name = image_id(start + i)
                print(name, f"https://images.example/{name}", *sides, sep="\t", file=file)


def write_store(path: Path, images: int) -> None:
    """Write a region store whose features, boxes, labels and scores are never written: holes of a sparse file."""
    regions = images * REGIONS
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        for name, shape, dtype in (
            ("features", (regions, DIM), "float16"),
            ("boxes", (regions, 4), "float32"),
            ("labels", (regions,), "int16"),
            ("scores", (regions,), "float32"),
        ):
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(np.dtype(dtype))
            h5py.h5d.create(file.id, name.encode(), kind, space, layout)
        ids = np.array([image_id(i).encode() for i in range(images)])
        file.create_dataset("ids", data=ids.astype(h5py.string_dtype("utf-8", ids.dtype.itemsize)))
        file.create_dataset("offsets", data=np.arange(images + 1, dtype=np.int64) * REGIONS)
        names = [f"class {c}" for c in range(CLASSES)]
        file.create_dataset("class_names", data=names, dtype=h5py.string_dtype("utf-8"))
        attributes = {"schema_version": SCHEMA_VERSION, "detector": "none", "created_by": "corpus_size.py"}
        file.attrs.update({**attributes, "feature_dim": DIM, "num_classes": CLASSES})


def image_id(number: int) -> str:
    """Id of a generated image."""
    return f"{number:08d}.jpg"


if __name__ == "__main__":
    sys.exit(main())
