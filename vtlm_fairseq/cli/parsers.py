"""What the parsers of all commands share: --version, the end of --help, completion in the shell."""

import argparse
import os
import posixpath

from vtlm_fairseq.cli.examples import EXAMPLES, PAGES
from vtlm_fairseq.version import __version__


class HelpFormatter(argparse.HelpFormatter):
    """Fills paragraphs as argparse does, and leaves lines that are indented as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.split("\n")
        return "\n".join(
            line if line.startswith(" ") or not line else super(HelpFormatter, self)._fill_text(line, width, indent)
            for line in lines
        )


def finish(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Give a command's parser, whose options are all there, what every command has.

    Under ``_ARGCOMPLETE``, which the shell sets where a line is to be completed, it answers and ends the process.

    Returns:
        The same parser.
    """
    parser.add_argument("--version", action="version", version=f"{parser.prog} (vtlm-fairseq) {__version__}")
    _end_help(parser)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for sub in action.choices.values():
                _end_help(sub)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    return parser


def _end_help(parser: argparse.ArgumentParser) -> None:
    """Examples and the page, behind what the help ends with already."""
    parser.formatter_class = HelpFormatter
    page = PAGES.get(parser.prog) or PAGES[parser.prog.partition(" ")[0]]
    examples = "".join(f"\n  {line}" for line in EXAMPLES.get(parser.prog, ()))
    examples = f"examples (file names of docs/first-run.md):{examples}\n\n" if examples else ""
    end = f"{examples}More: {posixpath.normpath(f'docs/{page}')}"
    parser.epilog = f"{parser.epilog}\n\n{end}" if parser.epilog else end
