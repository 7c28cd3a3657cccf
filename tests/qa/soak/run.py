"""Soak test: a long training on the quickstart's data with loader workers, frequent validation and saving.

    python tests/qa/soak/run.py --out soak --updates 2000

Samples memory and open files of the training process and of its loader workers from Linux's /proc, writes
``samples.tsv`` to ``--out``, prints a table, and ends with status 1 where something grows or is left behind. See
`judge` for what is demanded.
"""

import argparse
import csv
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
for _folder in (ROOT / "benchmarks", ROOT):
    if str(_folder) not in sys.path:
        sys.path.insert(0, str(_folder))

WINDOW = 100  # updates
WARM_UP = 600  # two epochs: by then the allocator has met most shapes of batches
TOLERANCE = 0.05
STAGES = {"pretraining": "vtlm", "finetuning": "mmt"}
KINDS = ("training", "worker")


@dataclass(frozen=True)
class Sample:
    """One look at one process.

    Attributes:
        seconds: since the start of the training.
        update: the last one in the log.
        pid: of the process.
        kind: ``training`` or ``worker``.
        rss: resident memory in MB, shared pages included.
        pss: the same with shared pages divided by the number of processes that share them; nan: not known.
        files: open file descriptors.
    """

    seconds: float
    update: int
    pid: int
    kind: str
    rss: float
    pss: float
    files: int


@dataclass(frozen=True)
class Series:
    """A figure of each window of `WINDOW` updates, those of the warm-up left out.

    Attributes:
        kind: of the processes.
        figure: what is measured.
        values: one a window.
    """

    kind: str
    figure: str
    values: tuple[float, ...]

    @property
    def spread(self) -> float:
        """Largest less smallest, as a share of the smallest."""
        return max(self.values) / min(self.values) - 1

    @property
    def slope(self) -> float:
        """Growth in 1,000 updates, by least squares."""
        return float(np.polyfit(np.arange(len(self.values)) * WINDOW / 1000, self.values, 1)[0])


def series(samples: Sequence[Sample], *, warm_up: int = WARM_UP) -> list[Series]:
    """The figures that are judged.

    Workers are made anew for each epoch and each validation, and a sample may meet one that has just begun. So a window
    counts by its largest memory. A leaked file stays open, while those of batches on their way (each tensor that a
    worker hands over is one) come and go, so a window counts by its smallest number of open files.

    Args:
        samples: of the whole training.
        warm_up: updates left out.
    """
    found = []
    for kind in KINDS:
        windows: dict[int, list[Sample]] = {}
        for sample in samples:
            if sample.kind == kind and sample.update >= warm_up:
                windows.setdefault((sample.update - warm_up) // WINDOW, []).append(sample)
        in_order = [windows[number] for number in sorted(windows)]
        for figure, pick in (("rss", max), ("pss", max), ("files", min)):
            values = tuple(float(pick(getattr(sample, figure) for sample in window)) for window in in_order)
            found.append(Series(kind, figure, values))
    return found


def judge(found: Iterable[Series], *, left: Sequence[str] = ()) -> list[str]:
    """What is wrong, a line each.

    Demanded after the warm-up: the largest RSS of a window, of training and of workers, within 5 %; in the second half
    no more files that stay open than in the first (a half, because only between two epochs there are no batches on
    their way); nothing left behind.

    Args:
        found: by `series`.
        left: names of processes and shared memory that outlived the training.
    """
    faults = [f"left behind: {name}" for name in left]
    for one in found:
        name = f"{one.kind} {one.figure}"
        if len(one.values) < 2:
            faults.append(f"{name}: {len(one.values)} windows after the warm-up; train for longer")
        elif one.figure == "rss" and not one.spread <= TOLERANCE:
            faults.append(f"{name}: from {min(one.values):.0f} to {max(one.values):.0f} MB, {one.spread:.1%}")
        elif one.figure == "files":
            middle = len(one.values) // 2
            before, after = min(one.values[:middle]), min(one.values[middle:])
            if after > before:
                faults.append(f"{name}: from {before:.0f} to {after:.0f} that stay open")
    return faults


def look(pid: int) -> tuple[float, float, int]:
    """RSS and PSS in MB and the number of open files of a process.

    Raises:
        OSError: it has ended, or is about to.
    """
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value, *_ = line.split()
        fields[name] = int(value) / 1000
    files = len(os.listdir(f"/proc/{pid}/fd"))
    if not files or "Rss:" not in fields:
        raise ProcessLookupError(pid)
    return fields["Rss:"], fields.get("Pss:", float("nan")), files


def children(pid: int) -> list[int]:
    """Process ids of the children of a process."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, path.read_text().split())
        except OSError:
            continue  # a thread that has ended
    return found


def watch(process: subprocess.Popen, log: Path, *, interval: float) -> tuple[list[Sample], set[int]]:
    """Sample a training until it ends; also the process ids that were seen.

    Args:
        process: the training.
        log: where it writes.
        interval: seconds from sample to sample.
    """
    number = re.compile(r'"num_updates": "(\d+)"')
    samples: list[Sample] = []
    pids, update, start = {process.pid}, 0, time.monotonic()
    with log.open(encoding="utf-8", errors="replace") as lines:
        while process.poll() is None:
            for line in lines:
                found = number.search(line)
                update = max(update, int(found[1]) if found else 0)
            for pid in (process.pid, *children(process.pid)):
                pids.add(pid)
                try:
                    figures = look(pid)
                except OSError:
                    continue
                kind = KINDS[pid != process.pid]
                samples.append(Sample(round(time.monotonic() - start, 2), update, pid, kind, *figures))
            time.sleep(interval)
    return samples, pids


def leftovers(pids: set[int], memory: set[str]) -> list[str]:
    """Those of the processes that still run, and shared memory that was not there before (``memory``)."""
    processes = [f"process {pid}" for pid in sorted(pids) if Path(f"/proc/{pid}").exists()]
    ours = tuple(f"torch_{pid}_" for pid in pids)
    new = sorted(name for name in set(os.listdir("/dev/shm")) - memory if name.startswith((*ours, "psm_", "sem.")))
    return processes + [f"/dev/shm/{name}" for name in new]


def prepare(out: Path, *, kind: str, seed: int) -> list[str]:
    """Make the quickstart's data, for fine-tuning also a barely pre-trained model; the command of the training."""
    from quickstart import commands, environment, prepare

    out.joinpath("logs").mkdir(parents=True, exist_ok=True)
    given = ("--seed", str(seed), "--cpu")
    prepare(out, *given)
    found = commands(*given)
    if kind == "finetuning":
        barely = [*found["vtlm"], "--max-update", "20", "--save-dir", "barely"]
        subprocess.run(barely, cwd=out, env=environment(), stdout=subprocess.DEVNULL, check=True)
    return [*found[STAGES[kind]], *(["--pretrained", "barely/checkpoint_last.pt"] if kind == "finetuning" else [])]


def train(
    out: Path, command: Sequence[str], *, updates: int, every: int, batch: int | None, interval: float
) -> tuple[int, list, list]:
    """Train; exit status, samples and what was left behind.

    Args:
        out: folder of everything.
        command: the quickstart's; its options are given again where they differ, the last ones count.
        updates: of the training.
        every: updates from validation to validation, at which a checkpoint is written too.
        batch: pairs of a batch; None for the quickstart's.
        interval: seconds from sample to sample.
    """
    from quickstart import environment

    from vtlm_fairseq.interrupts import end_with_parent

    shutil.rmtree(out / "soak", ignore_errors=True)
    argv = [*command, "--save-dir", "soak", "--num-workers", "2", "--max-update", str(updates)]
    argv += ["--total-num-update", str(updates), "--warmup-updates", str(updates // 10), "--log-interval", "5"]
    argv += ["--validate-interval-updates", str(every), "--save-interval-updates", str(every)]
    argv += ["--batch-size", str(batch)] if batch else []
    before = set(os.listdir("/dev/shm"))
    log = out / "logs" / "soak.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            argv, cwd=out, env=environment(), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
            preexec_fn=end_with_parent,
        )  # fmt: skip
        try:
            samples, pids = watch(process, log, interval=interval)
        finally:
            process.kill()
            process.wait()
    time.sleep(1)
    return process.returncode, samples, leftovers(pids, before)


def table(found: Sequence[Series]) -> str:
    """The figures as a Markdown table; memory in MB."""
    lines = ["| process | figure of each window | first | smallest | largest | spread | growth in 1,000 updates |",
             "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    names = {"rss": "largest RSS, MB", "pss": "largest PSS, MB", "files": "smallest number of open files"}
    for one in (one for one in found if one.values):
        first, least, most = one.values[0], min(one.values), max(one.values)
        growth = "" if one.figure == "files" else f"{one.spread:.1%} | {one.slope:+.1f}"
        figures = f"{first:.0f} | {least:.0f} | {most:.0f} | {growth or ' | '}"
        lines.append(f"| {one.kind} | {names[one.figure]} | {figures} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for everything")
    parser.add_argument("--updates", type=int, default=2000, help="of the training (default: %(default)s)")
    parser.add_argument("--kind", choices=tuple(STAGES), default="pretraining", help="default: %(default)s")
    parser.add_argument("--validate-every", type=int, default=50, metavar="N", help="updates (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="pairs (default: the quickstart's)")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between samples (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of data and training (default: %(default)s)")
    args = parser.parse_args(argv)
    out = args.out.absolute()
    command = prepare(out, kind=args.kind, seed=args.seed)
    status, samples, left = train(
        out, command, updates=args.updates, every=args.validate_every, batch=args.batch_size, interval=args.interval
    )
    with open(out / "samples.tsv", "w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, dialect="excel-tab", lineterminator="\n")
        rows.writerows([[field.name for field in dataclasses.fields(Sample)], *map(dataclasses.astuple, samples)])
    found = series(samples)
    faults = ([f"the training ended with status {status}"] if status else []) + judge(found, left=left)
    validations = (out / "logs" / "soak.log").read_text(encoding="utf-8").count('"valid_loss"')
    end, count = samples[-1], len(samples)
    print(f"{args.kind}: {end.update} updates, {validations} validations, {end.seconds:.0f} s, {count} samples")
    print(table(found))
    print("\n".join(faults) or "no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
