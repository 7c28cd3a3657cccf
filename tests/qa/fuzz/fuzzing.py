"""Fuzz what this package reads: run targets on generated cases and count all but the allowed outcomes as faults.

    python tests/qa/fuzz/fuzzing.py region_stores --cases 10000 --seed 1
    python tests/qa/fuzz/fuzzing.py region_stores --only 779      # repeat one case, with its stack
    python tests/qa/fuzz/fuzzing.py layouts:lmdb --cases 20000     # one part of a target that has `PARTS`
    python tests/qa/fuzz/fuzzing.py --cases 50                    # all targets

A target is a module beside this one with a function ``setup(folder)`` that returns ``case(rng)``. A case may return (it
has checked what was accepted by itself), or raise VTLMError or SystemExit with one line. Everything else is a fault:
another exception, a failed assertion (wrong acceptance), the end of the child process by a signal, no end within the
time limit. Case number i draws from its own generator, seeded by the seed and i.
"""

import argparse
import faulthandler
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(folder) for folder in (ROOT / "tests/support", ROOT) if str(folder) not in sys.path]

from forks import fork  # noqa: E402

from vtlm_fairseq.errors import VTLMError  # noqa: E402

Case = Callable[[random.Random], object]
Setup = Callable[[Path], Case]
MEMORY = 4 << 30  # bytes that a case may allocate beyond what the process has at its start
TARGETS = dict.fromkeys(
    ("image_lists", "text_json", "dictionaries", "captions", "translate_lines", "hypotheses", "converters", "tars",
     "entities", "caption_files"), 100_000,
) | dict.fromkeys(("region_stores", "checkpoints", "original_checkpoints", "layouts"), 10_000)  # fmt: skip
_STATE = struct.Struct("qqq")  # next case, accepted, refused


@dataclass
class Report:
    """What came out of a run.

    Attributes:
        cases: how many were run.
        accepted: those that returned.
        refused: those that ended with one line.
        seconds: of the whole run.
        faults: by kind and place, the numbers of the cases.
        details: of the first case of each fault, the stack or what happened.
    """

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    faults: dict[str, list[int]] = field(default_factory=dict)
    details: dict[str, str] = field(default_factory=dict)

    def add(self, number: int, kind: str, detail: str) -> None:
        """Count a fault."""
        self.faults.setdefault(kind, []).append(number)
        self.details.setdefault(kind, detail)

    def line(self, name: str) -> str:
        """The row of the table in docs/dev/reliability.md."""
        count = sum(map(len, self.faults.values()))
        return (
            f"{name}: {self.cases:,} cases, {self.seconds:.0f} s, {self.accepted:,} accepted, "
            f"{self.refused:,} refused, {count:,} faults of {len(self.faults)} kinds"
        )


def run_case(case: Case, rng: random.Random) -> tuple[bool, str, str]:
    """Whether a case was accepted, and the kind and detail of its fault (empty if there is none)."""
    try:
        case(rng)
        return True, "", ""
    except (VTLMError, SystemExit) as end:
        message = end.code if isinstance(end, SystemExit) else str(end)
        if isinstance(message, str) and message.strip() and "\n" not in message:
            return False, "", ""
        return False, f"ends with {message!r}"[:200], traceback.format_exc()
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "vtlm_fairseq" in frame.filename] or frames
        place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        reason = str(error).splitlines()[0][:80] if isinstance(error, AssertionError) and str(error) else ""
        return False, f"{type(error).__name__} at {place} {reason}".strip(), traceback.format_exc()


def run(setup: Setup, cases: int, *, seed: int = 1, first: int = 0, limit: float = 30.0) -> Report:
    """Run cases ``first`` to ``first + cases - 1``.

    Args:
        setup: the target.
        cases: how many.
        seed: of all of them.
        first: number of the first.
        limit: seconds that one case may take.
    """
    report = Report()
    started = time.monotonic()
    shared = mmap.mmap(-1, _STATE.size)
    _STATE.pack_into(shared, 0, first, 0, 0)
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=parent))
    log = folder / "faults"
    log.touch()
    try:
        while _STATE.unpack_from(shared)[0] < first + cases:
            pid = fork(lambda: _child(setup, folder / "work", log, shared, first + cases, seed))
            status = _wait(pid, shared, limit)
            if (broken := log.with_suffix(".setup")).exists():
                raise RuntimeError(broken.read_text(encoding="utf-8"))
            number = _STATE.unpack_from(shared)[0]
            if number < first + cases:  # the child ended within case `number`
                report.add(number, status, f"the process: {status}")
                _, accepted, refused = _STATE.unpack_from(shared)
                _STATE.pack_into(shared, 0, number + 1, accepted, refused)
        for line in log.read_text(encoding="utf-8").splitlines():
            report.add(*json.loads(line))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report.cases = cases
    _, report.accepted, report.refused = _STATE.unpack_from(shared)
    report.seconds = time.monotonic() - started
    return report


def _child(setup: Setup, folder: Path, log: Path, shared: mmap.mmap, end: int, seed: int) -> int:
    try:
        faulthandler.disable()  # pytest's would write the stacks of crashes
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        case = setup(folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY))
        with open(log, "a", encoding="utf-8") as file:
            number, accepted, refused = _STATE.unpack_from(shared)
            while number < end:
                good, kind, detail = run_case(case, random.Random(f"{seed}/{number}"))
                if kind:
                    print(json.dumps([number, kind, detail]), file=file, flush=True)
                accepted += good
                refused += not good and not kind
                number += 1
                _STATE.pack_into(shared, 0, number, accepted, refused)
        return 0
    except BaseException:
        log.with_suffix(".setup").write_text(traceback.format_exc())
        return 1


def _wait(pid: int, shared: mmap.mmap, limit: float) -> str:
    """How the child ended; it is killed where one case takes longer than the limit."""
    last, since = -1, time.monotonic()
    pause = 0.002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        number = _STATE.unpack_from(shared)[0]
        if number != last:
            last, since = number, time.monotonic()
        elif time.monotonic() - since > limit:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"no end within {limit:g} s"
        time.sleep(pause)
        pause = min(0.1, pause * 1.5)


def main() -> int:
    """The command line; exit status 1 where there are faults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--cases", type=int, help="of each target (default: 100,000, of the slow ones 10,000)")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--only", type=int, metavar="I", help="repeat case I in this process, with its stack")
    parser.add_argument("--limit", type=float, default=30.0, help="seconds one case may take (default: %(default)s)")
    args = parser.parse_args()
    if unknown := {name.partition(":")[0] for name in args.targets} - set(TARGETS):
        parser.error(f"no target: {', '.join(sorted(unknown))}")
    faults = False
    for name in args.targets:
        module, _, part = name.partition(":")
        setup = import_module(module).setup
        if part:
            parts = getattr(import_module(module), "PARTS", ())
            if part not in parts:
                parser.error(f"{module} has no part {part}: {', '.join(parts) or 'none'}")
            setup = partial(setup, part=part)
        if args.only is not None:
            with tempfile.TemporaryDirectory() as folder:
                print(setup(Path(folder))(random.Random(f"{args.seed}/{args.only}")))
            continue
        report = run(setup, args.cases or TARGETS[module], seed=args.seed, limit=args.limit)
        for kind, numbers in sorted(report.faults.items(), key=lambda item: -len(item[1])):
            print(f"---- {kind}: {len(numbers)} cases, --only {' '.join(map(str, numbers[:20]))}")
            print(report.details[kind][-1500:])
        print(report.line(name), flush=True)
        faults |= bool(report.faults)
    return int(faults)


if __name__ == "__main__":
    raise SystemExit(main())
