#!/usr/bin/env python
"""Whether half precision changes what is learnt: the training loss of the quickstart's pre-training.

    python benchmarks/precision_loss.py --out DIR [--precision bf16] [--seeds 1,2,3] [--updates 300]

Makes the quickstart's data, pre-trains VTLM for the first updates, in float32 and in half precision with
the same seeds, and compares the mean loss of the last sixth of the updates (251 to 300) with mean and deviation of the
float32 runs. A CPU without instructions for the precision takes about half an hour for each of its runs.
"""

import argparse
import re
import statistics
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))  # python -P leaves the folder of the script out

from quickstart import commands, environment, prepare  # noqa: E402


def main(argv: list[str] | None = None) -> int:
    """Run the trainings that are not finished in ``--out`` and compare; 1 if a half-precision run is outside."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for data and logs; finished runs are kept")
    parser.add_argument("--precision", choices=["bf16", "fp16"], default="bf16", help="(default: %(default)s)")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument(
        "--half-seeds",
        type=lambda text: [int(seed) for seed in text.split(",")],
        help="of the half-precision runs (default: as --seeds)",
    )
    parser.add_argument("--updates", type=int, default=300, help="(default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="leave a GPU alone")
    args = parser.parse_args(argv)
    args.out = args.out.absolute()
    args.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[float]] = {}
    for precision in ("float32", args.precision):
        options = ("--autocast", "none" if precision == "float32" else precision)  # whatever the quickstart takes
        seeds = args.seeds if precision == "float32" else args.half_seeds or args.seeds
        found[precision] = [last_losses(args, seed, precision, options) for seed in seeds]
        print(f"{precision}: " + ", ".join(f"{loss:.4f}" for loss in found[precision]), flush=True)
    mean, deviation = statistics.mean(found["float32"]), statistics.stdev(found["float32"])
    half = statistics.mean(found[args.precision])
    distance = abs(half - mean) / deviation
    print(f"float32: mean {mean:.4f}, deviation {deviation:.4f}; {args.precision}: mean {half:.4f}, "
          f"{distance:.2f} deviations away")  # fmt: skip
    return int(distance > 2)


def last_losses(args: Namespace, seed: int, precision: str, options: tuple[str, ...]) -> float:
    """Mean loss of the last sixth of the updates of a run, in bits as fairseq logs it."""
    log = args.out / f"{precision}.{seed}.{args.updates}.log"
    if not log.exists():
        given = ("--seed", str(seed), *(["--cpu"] if args.cpu else []))
        prepare(args.out, *given)
        extra = ("--max-update", str(args.updates), "--log-interval", "1", "--no-save", "--disable-validation")
        run(args.out, [*commands(*given)["vtlm"], *extra, *options], log)
    losses = [
        float(loss) for loss in re.findall(r'"loss": "([^"]+)".*"num_updates": ', log.read_text(encoding="utf-8"))
    ]
    if len(losses) != args.updates:
        raise SystemExit(f"error: {log} holds the losses of {len(losses)} updates, not {args.updates}; remove it")
    return statistics.mean(losses[-(args.updates // 6) :])


def run(folder: Path, command: list[str], log: Path) -> None:
    """Run a command of the quickstart; its output goes to ``log`` once it has succeeded."""
    temporary = log.with_name(log.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        status = subprocess.run(
            command, cwd=folder, env=environment(), stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if status != 0:
        raise SystemExit(f"error: a command failed, see {temporary}")
    temporary.rename(log)


if __name__ == "__main__":
    sys.exit(main())
