"""The quickstart: make a small data set, pre-train VTLM, fine-tune MMT and NMT, decode, and show what the image does.

Takes five to eight minutes on a CPU, three more with --probes. Everything is written under --out; a second call goes on
where the first one stopped.
"""

import argparse
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent)]  # commands.py, stages.py and, with python -P, those beside this
# TensorFlow, which PyTorch's TensorBoard support imports where it is installed, would print its greeting
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def report(args: argparse.Namespace, seconds: dict[str, float]) -> str:
    """Write ``results.json`` from the hypothesis files and return what the screen shows."""
    import probes
    from scoring import EXPECTED, SYSTEMS, minimal_pairs, outside_expected, read_records, score, table
    from stages import write_atomically

    records = read_records(args.out / "data" / "test.jsonl")
    hypotheses = {
        system: (args.out / "hyp" / f"{system}.de").read_text(encoding="utf-8").splitlines() for system in SYSTEMS
    }
    scores = {system: score(hypotheses[system], records) for system in SYSTEMS}
    versions = {name: metadata.version(name) for name in ("ve-fairseq", "torch", "numpy")}
    results = {
        "size": args.size,
        "seed": args.seed,
        "systems": {
            system: {"title": title, "hypotheses": f"hyp/{system}.de", **scores[system]}
            for system, title in SYSTEMS.items()
        },
        "expected": EXPECTED,
        "seconds": seconds,
        "seconds_in_all": round(sum(seconds.values()), 1),
        "versions": {"python": platform.python_version(), **versions},
    }
    full = args.size == "full"
    figures = probes.read_figures(args.out / "probes") if args.probes else []
    if figures:
        results["probes"] = {figure.name: figure.value for figure in figures}
    write_atomically(args.out / "results.json", json.dumps(results, indent=2, ensure_ascii=False) + "\n")
    text = f"\n{table(scores, expected=full)}\n\n{minimal_pairs(records, hypotheses)}\n\n"
    if figures:
        text += f"{probes.table(figures, expected=full)}\n\n"
    outside = [*outside_expected(scores), *probes.outside_expected(figures)]
    if full and outside:
        text += f"(!) outside the expected range: {'; '.join(outside)}\n"
    return f"{text}Figures in {args.out / 'results.json'}, hypotheses in {args.out / 'hyp'}"


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; ``out`` becomes absolute."""
    parser = argparse.ArgumentParser(description=__doc__, prog="run.sh")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("quickstart-out"),
        help="folder for everything (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of data and training (default: %(default)s)")
    parser.add_argument(
        "--size",
        choices=("full", "tiny"),
        default="full",
        help="tiny: under a minute, learns nothing, tests the commands (default: %(default)s)",
    )
    parser.add_argument(
        "--probes",
        action="store_true",
        help="also pre-train a text-only TLM and probe all models with vtlm-probe (under 10 minutes in all)",
    )
    parser.add_argument(
        "--cpu",
        action="store_true",
        help="run on the CPU; where PyTorch has to be installed, take its small CPU build",
    )
    args = parser.parse_args(argv)
    if args.seed < 0:
        parser.error(f"--seed {args.seed}: give a number from 0")
    args.out = args.out.absolute()
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    args = parse_arguments(argv)
    # fairseq, imported with the package, sets the root logger to DEBUG unless it is set up before.
    logging.basicConfig(level=logging.WARNING)
    from commands import environment
    from plan import ROOT, build_stages
    from stages import Runner, Screen

    from vtlm_fairseq.terminal import command_line

    with command_line():
        screen = Screen(sys.stdout)
        # models as small as these gain nothing from a second thread, and lose much when its core is busy
        variables = environment(OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", "1"))
        runner = Runner(args.out, build_stages(args), root=ROOT, environment=variables, screen=screen)
        screen.say(f"Quickstart in {args.out}; logs in {args.out / 'logs'}")
        try:
            seconds = runner.run()
        except KeyboardInterrupt as end:
            screen.say("\nStopped; the same command goes on with this stage.")
            raise SystemExit(128 + getattr(end, "number", signal.SIGINT)) from None
        screen.say(report(args, seconds))


if __name__ == "__main__":
    main()
