"""``vtlm-probe``: what the image does, one sub-command a probe (paper, section 3.2)."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from vtlm_fairseq.cli.parsers import finish
from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.evaluation.probes.own import get_probe, own_probes
from vtlm_fairseq.evaluation.probes.parsers import PROBES
from vtlm_fairseq.evaluation.tables import check_out
from vtlm_fairseq.terminal import command_line
from vtlm_fairseq.user_dir import add_user_dir_option, given_user_dir, import_user_dir


@command_line()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Raises:
        SystemExit: with one line, for a fault of input or options.
    """
    if (folder := given_user_dir(argv)) is not None:
        import_user_dir(folder)  # its probes are sub-commands
    args = build_parser().parse_args(argv)
    check_out(args)
    import_user_dir(args.user_dir)
    if args.probe in own_probes():
        get_probe(args.probe)().run(args)
        return 0
    importlib.import_module(f"vtlm_fairseq.evaluation.probes.{args.probe.replace('-', '_')}").run(args)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser of ``vtlm-probe``."""
    parser = argparse.ArgumentParser(prog="vtlm-probe", description="Measure what the image does for a model.")
    commands = parser.add_subparsers(dest="probe", required=True, metavar="PROBE")
    for add in PROBES:
        add(commands)
    for name in own_probes():
        if name in commands.choices:
            raise VTLMError(f"vtlm-probe {name}: two probes of that name; rename yours")
        probe = get_probe(name)()
        about = " ".join((probe.__doc__ or name).split("\n\n")[0].split())
        probe.options(commands.add_parser(name, help=about, description=about))
    add_user_dir_option(parser)
    return finish(parser)


if __name__ == "__main__":
    sys.exit(main())
