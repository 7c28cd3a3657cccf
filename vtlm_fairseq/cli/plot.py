"""``vtlm-plot``: curves of trainings, from their logs."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.terminal import command_line, say


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    from vtlm_fairseq.evaluation.curves import choose, draw, read_run
    from vtlm_fairseq.evaluation.plots import check_plot

    check_plot(args.out, option="--out")
    names = [name or str(path) for name, path in args.runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise VTLMError(f"run {twice[0]} is there twice; give names, NAME=RUN")
    runs = [read_run(path) for _, path in args.runs]
    for run, name in zip(runs, names, strict=True):
        run.name = name
    metrics = choose(runs, args.metrics)
    draw(runs, metrics, args.out)
    say(f"{args.out}: {', '.join(metrics)} of {len(runs)} run(s)")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-plot``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-plot",
        description="Draw what fairseq-train has logged with --log-format json: losses, accuracies, BLEU, learning "
        "rate and words a second by update, of training and validation, several runs over each other. Needs the "
        "extra [plots].",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=parse_run,
        metavar="[NAME=]RUN",
        help="log file of a training, or a folder that holds one (*.log, log)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="picture to write: .png, .pdf or .svg")
    parser.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        metavar="NAME",
        help="draw this one, as the log calls it (mlm_loss, bleu, gnorm, ...); repeat for more",
    )
    return finish(parser)


def parse_run(text: str) -> tuple[str, Path]:
    """Name ("" where there is none) and path, for argparse."""
    name, equals, path = text.partition("=")
    if equals and not Path(text).exists():
        return name, Path(path)
    return "", Path(text)


if __name__ == "__main__":
    sys.exit(main())
