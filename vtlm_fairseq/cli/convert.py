"""``vtlm-convert``: average checkpoints, find the newest, describe one, convert and check those of the paper's code."""

import argparse
import sys
import warnings
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.files import check_writable
from vtlm_fairseq.interop import ABSOLUTE
from vtlm_fairseq.options import add_options
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    for name in ("out", "dump"):  # before the imports, which take seconds
        if (path := getattr(args, name, None)) is not None:
            check_writable(path, label=f"--{name} {path}", parents=args.command == "checkpoint")
    warnings.simplefilter("ignore")  # PyTorch on the kinds of masks that fairseq hands to attention
    import_user_dir(args.user_dir)
    if args.command == "card":
        from vtlm_fairseq.evaluation.card import run
    else:
        from vtlm_fairseq.interop.run import COMMANDS

        run = COMMANDS[args.command]
    run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-convert``."""
    parser = argparse.ArgumentParser(prog="vtlm-convert", description="Work on checkpoint files.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    average = commands.add_parser("average", help="average the parameters of checkpoints of one model")
    average.add_argument("checkpoints", nargs="+", metavar="CKPT")
    average.add_argument("--out", required=True, metavar="FILE", help="file to write")
    average.add_argument("--half", action="store_true", help="store parameters in float16")
    latest = commands.add_parser(
        "latest",
        help="print the newest whole checkpoint of a folder",
        description="Print the newest whole checkpoint of a folder, for --restore-file. fairseq copies "
        "checkpoint_last.pt in place, so a kill at that moment leaves a cut-off file beside a whole one.",
    )
    latest.add_argument("folder", metavar="DIR")
    checkpoint = commands.add_parser(
        "checkpoint",
        help="convert a checkpoint of the paper's code",
        description="Convert a pre-trained or translation checkpoint of the paper's code, or a TLM checkpoint of XLM, "
        "to fairseq's form, with dict.*.txt beside it. Sizes are read from the file.",
    )
    checkpoint.add_argument("checkpoint", metavar="IN.pth")
    checkpoint.add_argument("--out", required=True, metavar="OUT.pt", help="file to write")
    add_options(checkpoint, "--source-lang", "--target-lang", default=None, help="where the file does not say")
    check = commands.add_parser(
        "check",
        help="compare a converted checkpoint with what the paper's code computes",
        description="Recompute every output of a reference file and print the largest absolute difference of each. "
        "Tokens and masks must be equal, losses to 1e-6 (relative), summed log-probabilities to 1e-4.",
    )
    check.add_argument("checkpoint", metavar="OUT.pt")
    check.add_argument("--reference", required=True, metavar="FILE.npz", help="inputs and outputs of the paper's code")
    check.add_argument(
        "--tolerance", type=tolerance, default=ABSOLUTE, help="for states and logits (default: %(default)s)"
    )
    check.add_argument("--dump", metavar="OUT.npz", help="write what was computed, under the same names")
    _add_card(commands)
    add_user_dir_option(parser)
    return finish(parser)


def _add_card(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    card = commands.add_parser(
        "card",
        help="write a model card",
        description="Write what a checkpoint and its training's run.json say of a model as Markdown: data, detector, "
        "options, scores, limits. What only people know stands there as a line to fill in.",
    )
    card.add_argument("checkpoint", metavar="CKPT", help="checkpoint or folder")
    card.add_argument("--run", metavar="FILE", help="run.json of the training (default: the one beside CKPT, if any)")
    card.add_argument("--scores", metavar="FILE", action="append", default=[],
                      help="table that vtlm-score or vtlm-probe printed with --format json (repeatable)")  # fmt: skip
    card.add_argument("--title", help="heading (default: name of the folder)")
    card.add_argument("--out", metavar="FILE", help="file to write (default: standard output)")
    add_options(card, "--overwrite")


def tolerance(text: str) -> float:
    """A number that is not negative."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 up")
    return value


if __name__ == "__main__":
    sys.exit(main())
