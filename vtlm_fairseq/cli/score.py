"""``vtlm-score``: BLEU, chrF, TER, METEOR and COMET of translations, over seeds, test sets and systems."""

import argparse
import sys
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.evaluation.scoring import BOOTSTRAP_SAMPLES, BOOTSTRAP_SEED, METEOR_JAR
from vtlm_fairseq.evaluation.tables import add_table_options
from vtlm_fairseq.options import add_options
from vtlm_fairseq.ranges import COUNT, RESAMPLING_SEED, reader
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.text.pipeline import STEPS
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    if args.user_dir is not None:
        import_user_dir(args.user_dir)  # text.json may name a step that it registers
    from vtlm_fairseq.evaluation.scoring.run import run

    run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-score``."""
    parser = argparse.ArgumentParser(
        prog="vtlm-score",
        description="Score translations. HYP is raw output of fairseq-generate or plain lines; several are the seeds "
        "of one system. Or score systems on several test sets: --system NAME PATTERN and --set NAME REF [RAW-REF].",
    )
    add_table_options(parser)
    parser.add_argument("hyp", nargs="*", metavar="HYP", help="translations, one file a seed")
    _add_options(
        parser.add_argument_group("files"),
        ("--ref", "FILE", "references prepared as the model's text was, before BPE"),
        ("--raw-ref", "FILE", "references as published: adds BLEU 13a, chrF2 and TER"),
        ("--src", "FILE", "source sentences as published, for --comet"),
        ("--subset", "FILE", "score only these lines of the test set: numbers from 1, one a line"),
        ("--sentences", "OUT.tsv", "write id (from 0), texts, BLEU and chrF2 of each sentence"),
    )
    parser.add_argument("--allow-missing", action="store_true", help="leave out and name sentences without translation")
    many = parser.add_argument_group("several systems and test sets")
    many.add_argument(
        "--system",
        nargs=2,
        action="append",
        metavar=("NAME", "PATTERN"),
        default=[],
        help="pattern of a system's files, one a seed, with {set} for the test set: 'out/seed*/{set}.txt'",
    )
    many.add_argument(
        "--set",
        nargs="+",
        action="append",
        metavar=("NAME REF", "RAW-REF SRC"),
        default=[],
        help="a test set: its name, --ref and, if wanted, --raw-ref and --src",
    )
    prepared = parser.add_argument_group("how the model's text was prepared")
    _add_options(
        prepared,
        ("--text-json", "PATH", "text.json, or a folder of data or checkpoints that holds it (default: beside HYP)"),
        ("--steps", "LIST", f"where there is no text.json: some of {','.join(STEPS)}, or none"),
        ("--lang", "CODE", "language of the translations (default: the target of text.json)"),
    )
    add_options(prepared, "--post-process")
    more = parser.add_argument_group("METEOR and COMET")
    _add_options(
        more,
        ("--meteor-jar", "FILE", f"METEOR 1.5, which needs Java; {METEOR_JAR}"),
        ("--comet", "MODEL", "a COMET checkpoint file (extra [comet]); needs raw references and sources"),
    )
    more.add_argument("--force", action="store_true", help="COMET of lower-cased text, which it was not trained on")
    test = parser.add_argument_group("significance: sacreBLEU's paired bootstrap")
    test.add_argument(
        "--baseline",
        action="append",
        metavar="FILE",
        default=[],
        help="translations of another system; once, or as often as there are seeds (with --set: a pattern)",
    )
    test.add_argument(
        "--seeds",
        action="store_true",
        help="one test of the means over seeds, of system and --baseline, as many of each as there are; sentences and "
        "seeds are resampled together",
    )
    test.add_argument(
        "--bootstrap-samples", type=reader(COUNT), default=BOOTSTRAP_SAMPLES, metavar="N", help="(default: 1000)"
    )
    add_options(
        test,
        "--seed",
        type=reader(RESAMPLING_SEED),
        default=BOOTSTRAP_SEED,
        help="of resampling (default: %(default)s)",
    )
    add_user_dir_option(parser)
    return finish(parser)


def _add_options(group: argparse._ArgumentGroup, *options: tuple[str, str, str]) -> None:
    """Options that take one string: name, what it stands for, help."""
    for name, metavar, text in options:
        group.add_argument(name, metavar=metavar, help=text)


if __name__ == "__main__":
    sys.exit(main())
