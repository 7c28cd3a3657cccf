#!/usr/bin/env python
"""Memory of training processes on a large region store.

    python benchmarks/worker_memory.py --out DIR [--gigabytes 5] [--workers 2] [--updates 300]

Writes a store of random float16 features (36 x 1536 an image) and a text of one pair an image, trains `vtlm_tiny` on
them, and prints the largest resident memory of the parent and of each loader worker, and how much of it is private.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import vtlm_fairseq
from vtlm_fairseq.data.region_store import RegionStoreWriter

REGIONS, DIM = 36, 1536
USER_DIR = str(Path(vtlm_fairseq.__file__).parent)


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated data")
    parser.add_argument("--gigabytes", type=float, default=5, help="size of the features")
    parser.add_argument("--workers", type=int, default=2, help="loader workers")
    parser.add_argument("--updates", type=int, default=300, help="updates of 64 pairs")
    args = parser.parse_args()
    images = int(args.gigabytes * 1e9 / (REGIONS * DIM * 2))
    if not (args.out / "bin" / "train.images").exists():
        write_data(args.out, images)
    command = [sys.executable, "-m", "fairseq_cli.train", str(args.out / "bin"), "--user-dir", USER_DIR]
    command += "--task visual_translation_lm --arch vtlm_tiny --criterion vtlm --optimizer adam --lr 1e-4".split()
    command += f"--regions {args.out / 'regions.h5'} --batch-size 64 --max-update {args.updates} --cpu".split()
    command += f"--num-workers {args.workers} --no-save --disable-validation --log-format none".split()
    log = open(args.out / "train.log", "w")
    training = subprocess.Popen(command, stdout=log, stderr=log)
    peaks: dict[int, tuple[int, int]] = {}
    while training.poll() is None:
        for pid in (training.pid, *children(training.pid)):
            memory = resident(pid)
            peaks[pid] = tuple(map(max, memory, peaks.get(pid, (0, 0))))
        time.sleep(0.5)
    print(f"{images} images, {(args.out / 'regions.h5').stat().st_size / 1e9:.2f} GB, status {training.returncode}")
    for pid, (total, private) in sorted(peaks.items()):
        name = "parent" if pid == training.pid else "worker"
        print(f"{name}: resident {total / 1e6:.2f} GB at most, of it private {private / 1e6:.2f} GB")
    return training.returncode


def write_data(out: Path, images: int) -> None:
    """Store, text and image ids."""
    rng = np.random.default_rng(1)
    out.mkdir(parents=True, exist_ok=True)
    names = [f"class{c}" for c in range(601)]
    noise = rng.normal(size=(4096, DIM)).astype(np.float16)
    boxes = np.tile(np.array([0.1, 0.1, 0.6, 0.6], np.float32), (REGIONS, 1))
    scores = np.linspace(1, 0.1, REGIONS, dtype=np.float32)
    with RegionStoreWriter(str(out / "regions.h5"), feature_dim=DIM, class_names=names, detector="random") as writer:
        for i in tqdm(range(images), unit=" images", mininterval=2):
            start = int(rng.integers(0, len(noise) - REGIONS))
            features = noise[start : start + REGIONS]
            labels = rng.integers(0, 601, REGIONS)
            writer.add(f"image{i}", features=features, boxes=boxes, labels=labels, scores=scores)
    words = np.array([f"w{i}" for i in range(5000)])
    for lang in ("en", "de"):
        with open(out / f"train.{lang}", "w") as file:
            file.writelines(" ".join(rng.choice(words, 14)) + "\n" for _ in range(images))
    command = f"-m fairseq_cli.preprocess --user-dir {USER_DIR} --task visual_translation_lm -s en -t de"
    command += f" --joined-dictionary --trainpref {out / 'train'} --destdir {out / 'bin'}"
    subprocess.run([sys.executable, *command.split()], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (out / "bin" / "train.images").write_text("".join(f"image{i}\n" for i in range(images)))


def children(pid: int) -> list[int]:
    """Processes started by a process (Linux)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:  # it has ended
            continue
    return found


def resident(pid: int) -> tuple[int, int]:
    """Resident memory and its anonymous (private) part in kB (Linux)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest}
    return values.get("VmRSS", 0), values.get("RssAnon", 0)


if __name__ == "__main__":
    sys.exit(main())
