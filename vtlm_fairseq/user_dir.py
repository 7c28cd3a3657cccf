"""``--user-dir`` of the vtlm-* commands: a folder of one's own with classes derived from this package's.

Checkpoints name the classes that they are loaded with. Those of fairseq's commands come from its own ``--user-dir``.
"""

import argparse
from collections.abc import Sequence

from vtlm_fairseq import register
from vtlm_fairseq.errors import VTLMError


def add_user_dir_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--user-dir`` to the parser of a command, or to each of its sub-commands."""
    commands = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for each in [sub for action in commands for sub in action.choices.values()] or [parser]:
        each.add_argument(
            "--user-dir", metavar="DIR", help="as in training, where classes of your own were trained (runs its code)"
        )


def given_user_dir(argv: Sequence[str] | None) -> str | None:
    """The folder on a command line, for what has to be registered before that is read."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--user-dir")
    try:
        return parser.parse_known_args(argv)[0].user_dir
    except argparse.ArgumentError:  # without a folder, which the command's own parser says
        return None


def import_user_dir(folder: str | None) -> None:
    """Register what this package has with fairseq, then import a user-dir, as fairseq's commands do; None is none.

    Raises:
        VTLMError: there is no such folder, or its code cannot be imported.
    """
    register()
    if folder is None:
        return
    from fairseq import utils

    try:
        utils.import_user_module(argparse.Namespace(user_dir=folder))
    except VTLMError:
        raise
    except Exception as error:  # whatever its code raises
        raise VTLMError(f"--user-dir {folder}: its code was not imported ({type(error).__name__}: {error})") from error
