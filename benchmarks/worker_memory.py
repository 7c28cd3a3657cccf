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

from generated import PAPER, image_bytes, write_data

import vtlm_fairseq

USER_DIR = str(Path(vtlm_fairseq.__file__).parent)


def main() -> int:
    """Run the measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated data")
    parser.add_argument("--gigabytes", type=float, default=5, help="size of the features")
    parser.add_argument("--workers", type=int, default=2, help="loader workers")
    parser.add_argument("--updates", type=int, default=300, help="updates of 64 pairs")
    args = parser.parse_args()
    images = int(args.gigabytes * 1e9 / image_bytes(PAPER))
    if not (args.out / "bin" / "train.images").exists():
        write_data(args.out, PAPER, pairs=images)
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
