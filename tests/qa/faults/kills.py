"""Kill trainings and extractions at random moments, go on, and compare with a run that was left alone.

    python tests/qa/faults/kills.py --kind pretraining --kills 20 --seed 1 --workers 2
    python tests/qa/faults/kills.py --kind extraction --kills 20 --seed 1

The data are generated. SIGKILL goes to the whole process group at a moment drawn evenly over start-up and half of what
follows, in processor time of the main thread; then the same command goes on from the newest whole checkpoint, as
``vtlm-convert latest`` names it. After at most five kills a run is left to end. Exit status 1 where something differs.
"""

import argparse
import collections
import contextlib
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(folder) for folder in (ROOT / "tests", ROOT / "tests/support", ROOT) if str(folder) not in sys.path]

from extraction import SCRIPT, contents, documented_detector, write_images  # noqa: E402
from qa.faults.trainings import differences, different_parts, newest, place, trained_updates, training  # noqa: E402

from harness import CommandLines, Result  # noqa: E402
from toy import make_corpus  # noqa: E402

KILLS_OF_A_RUN = 5


class Running:
    """A command under way, in a process group of its own.

    Attributes:
        computed: seconds of processor time of its main thread when it was last looked at (Linux).
        status: its exit status once it has ended.
    """

    def __init__(self, run: CommandLines, module, *argv):
        request = run.request(module, argv)
        self.forks = run.forks
        (self.pid,) = self.forks.start([request])
        self.log = Path(request["log"])
        self.status: int | None = None
        self.computed = 0.0

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for its end, at most until it has computed so long; whether it has ended.

        The clock is the processor time of its main thread: a busy machine does not move the moment.
        """
        answers = [self.forks.process.stdout]
        while seconds is not None and not select.select(answers, [], [], 0.001)[0]:
            with contextlib.suppress(OSError):  # it has just ended
                self.computed = int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9
            if self.computed >= seconds:
                return False
        (self.status,) = self.forks.statuses()
        return True

    def kill(self) -> None:
        """SIGKILL to the whole process group, workers of data loaders included."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    @property
    def result(self) -> Result:
        """Status and output so far."""
        return Result(self.status, self.log.read_text(encoding="utf-8", errors="replace"))


@dataclass
class Trial:
    """A kind of run that can be begun, located, and compared.

    Attributes:
        start: begins or continues the run in a folder.
        place: where a killed run was.
        finished: whether nothing is left to do in a folder, although the run was killed.
        compare: differences of a finished run (its folder, the results of all its starts).
        startup: seconds of processor time up to the first piece of work.
        seconds: the same of a run that is left alone.
    """

    start: Callable[[Path], Running]
    place: Callable[[Result, Path], str]
    finished: Callable[[Path], bool]
    compare: Callable[[Path, list[Result]], list[str]]
    startup: float
    seconds: float


def train(run: CommandLines, kind: str, workers: int, updates: int) -> Trial:
    """Training, with one run left alone."""
    corpus = make_corpus(run, run.folder / "corpus")
    pretrained = None
    if kind == "finetuning":
        run("fairseq_cli.train", *training("pretraining", corpus, run.folder / "pre", workers=0, updates=6,
                                           pretrained=None))  # fmt: skip
        pretrained = run.folder / "pre/checkpoint_last.pt"

    def argv(folder: Path) -> list:
        return training(kind, corpus, folder, workers=workers, updates=updates, pretrained=pretrained)

    whole = run.folder / "whole"
    result, startup, seconds = timed(Running(run, "fairseq_cli.train", *argv(whole)), '"num_updates"')
    assert len(result.updates()) == updates and result.validations()

    def compare(folder: Path, results: list[Result]) -> list[str]:
        if results[-1].status == 0:
            return differences(whole, folder, [result], results)
        return different_parts(whole / "checkpoint_last.pt", Path(newest(run, folder)[1]))

    return Trial(
        start=lambda folder: Running(run, "fairseq_cli.train", *argv(folder), *newest(run, folder)),
        place=place,
        # fairseq trains one update more when a run that has them all is begun again, so it is not
        finished=lambda folder: trained_updates(newest(run, folder)) == updates,
        compare=compare,
        startup=startup,
        seconds=seconds,
    )


def extract(run: CommandLines, within: Path, workers: int) -> Trial:
    """Extraction of 200 images with the detector of docs/extraction.md; one run left alone."""
    images = within / "images"
    write_images(images, 200)
    detector = within / "quarters.py"
    detector.write_text(documented_detector(), encoding="utf-8")

    def start(folder: Path) -> Running:
        folder.mkdir(exist_ok=True)
        return Running(run, SCRIPT, "--images", images, "--detector", "quarters", "--detector-file", detector,
                       "--out", folder / "store.h5", "--part-size", 8, "--batch-size", 3,
                       "--workers", workers)  # fmt: skip

    whole = within / "whole"
    _, startup, seconds = timed(start(whole), "images/s")
    expected = contents(whole / "store.h5")

    def compare(folder: Path, results: list[Result]) -> list[str]:
        found = [name for name, values in contents(folder / "store.h5").items() if values != expected[name]]
        left = sorted(path.name for path in folder.iterdir())
        return found + ([f"files {left}"] if left != ["store.h5"] else [])

    return Trial(start, extraction_place, lambda folder: False, compare, startup, seconds)


def extraction_place(result: Result, folder: Path) -> str:
    """Where an extraction was when it was killed."""
    parts = folder / "store.h5.parts"
    if (folder / "store.h5").exists():
        return "end"
    if not (parts / "plan.json").exists():
        return "start-up"
    temporary = [path.name for path in parts.glob(".*.tmp")]
    if any(name.startswith(".joined") for name in temporary):
        return "joining"
    return "writing a part" if temporary else "start-up" if "images/s" not in result.output else "between parts"


def timed(running: Running, mark: str) -> tuple[Result, float, float]:
    """Let a run end; its result, and what it had computed in seconds at the first mark in its output and at its end."""
    startup = 0.0
    while not running.wait(running.computed + 0.01):
        if not startup and mark in running.result.output:
            startup = running.computed
    assert running.status == 0, running.result.output[-6000:]
    return running.result, startup, running.computed


def campaign(trial: Trial, folder: Path, kills: int, seed: int) -> tuple[collections.Counter[str], int, list[str]]:
    """Kill, go on and compare until there were so many kills.

    Returns:
        How many fell where; runs that were killed and led to their ends; all that differed from the one left alone.
    """
    rng = np.random.default_rng(seed)
    latest = trial.startup + (trial.seconds - trial.startup) / 2
    places: collections.Counter[str] = collections.Counter()
    found: list[str] = []
    runs = 0
    while places.total() < kills:
        target = folder / f"killed{runs}"
        results: list[Result] = []
        done = False
        while not done:
            running = trial.start(target)
            left = min(KILLS_OF_A_RUN - len(results), kills - places.total())
            if not running.wait(rng.uniform(0, latest) if left > 0 else None):
                running.kill()
            results.append(running.result)
            done = running.status == 0
            if running.status == -signal.SIGKILL:
                where = trial.place(running.result, target)
                places[where] += 1
                print(f"run {runs}, kill {places.total()}: {where}", flush=True)
                done = trial.finished(target)
            elif not done:
                found.append(f"run {runs} could not go on: {running.result.output[-1500:]}")
                break
        if done:
            found += [f"run {runs}: {difference}" for difference in trial.compare(target, results)]
        runs += 1
    return places, runs, found


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", required=True, choices=("pretraining", "finetuning", "extraction"))
    parser.add_argument("--kills", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, help="of the data loader (default: %(default)s)")
    parser.add_argument("--updates", type=int, default=36, help="of a training (default: %(default)s)")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        run = CommandLines(Path(folder))
        if args.kind == "extraction":
            trial = extract(run, run.folder, args.workers)
        else:
            trial = train(run, args.kind, args.workers, args.updates)
        print(f"left alone: {trial.seconds:.1f} s of processor time, start-up {trial.startup:.1f} s", flush=True)
        places, runs, found = campaign(trial, Path(folder), args.kills, args.seed)
    print("\n".join(found))
    # a row of the table in docs/dev/reliability.md
    where = ", ".join(f"{name} {count}" for name, count in sorted(places.items()))
    row = (args.kind, args.workers, places.total(), where, runs, len(found), f"{time.monotonic() - began:.0f}")
    print(f"| {' | '.join(map(str, row))} |")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
