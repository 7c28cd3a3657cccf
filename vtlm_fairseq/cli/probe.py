"""``vtlm-probe``: what the image does, one sub-command a probe (paper, section 3.2)."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from vtlm_fairseq.evaluation.probes.parsers import PROBES
from vtlm_fairseq.evaluation.tables import check_out
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.user_dir import add_user_dir_option, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    args = build_parser().parse_args(argv)
    check_out(args)
    import_user_dir(args.user_dir)
    importlib.import_module(f"vtlm_fairseq.evaluation.probes.{args.probe.replace('-', '_')}").run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-probe``."""
    parser = argparse.ArgumentParser(prog="vtlm-probe", description="Measure what the image does for a model.")
    commands = parser.add_subparsers(dest="probe", required=True, metavar="PROBE")
    for add in PROBES:
        add(commands)
    add_user_dir_option(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
