"""Commands of a page of docs, run as bash expands them, through the server of commands."""

import configparser
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness import ROOT, CommandLines, Result, environment

_SETUP = configparser.ConfigParser()
_SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
MODULES = {
    name: entry.partition(":")[0]
    for name, entry in (
        line.split(" = ") for line in _SETUP["options.entry_points"]["console_scripts"].strip().splitlines()
    )
} | {f"fairseq-{name}": f"fairseq_cli.{name}" for name in ("train", "generate", "validate", "preprocess")}
"""Module of each command."""
# Commands are noted with the file that their output goes to; all else is run by bash.
NOTE = """
note() { printf '%s\\0' "$(readlink /proc/$$/fd/1)" "$@" $'\\n' >> "$NOTES"; }
"""


def page_blocks(page: Path) -> list[str]:
    """The bash blocks below a ``<!-- tested -->``."""
    return re.findall(r"^<!-- tested.*? -->\n```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def run_block(run: CommandLines, block: str, folder: Path, *, options: Mapping[str, str], **env: str):
    """Run a block in a folder.

    Args:
        run: the commands.
        block: of bash: its own commands run at once, ours and fairseq's after all of them.
        folder: where.
        options: as of `run_line`.
        env: variables of the block.

    Yields:
        The words and the `Result` of each of our commands.
    """
    notes = folder / "notes"
    notes.unlink(missing_ok=True)
    functions = "".join(f'{name}() {{ note {name} "$@"; }}\n' for name in MODULES)
    subprocess.run(["bash", "-euc", NOTE + functions + block], cwd=folder, check=True, timeout=300,
                   env={**environment(), "NOTES": str(notes), "CUDA_VISIBLE_DEVICES": "", **env})  # fmt: skip
    for noted in notes.read_text(encoding="utf-8").split("\0\n\0")[:-1] if notes.exists() else ():
        target, *words = noted.split("\0")
        result = _run(run, words, folder, options)
        if Path(target).is_file():
            Path(target).write_text(result.output, encoding="utf-8")
        yield words, result


def run_line(run: CommandLines, line: str, folder: Path, *, options: Mapping[str, str]) -> Result:
    """Run one of our commands, of which nothing is for a shell to expand.

    Args:
        run: the commands.
        line: the command.
        folder: where.
        options: what is put behind the arguments of a command, by its name, or name and sub-command.
    """
    return _run(run, shlex.split(line), folder, options)


def _run(run: CommandLines, words: list[str], folder: Path, options: Mapping[str, str]) -> Result:
    more = options.get(words[0]) or options.get(" ".join(words[:2])) or ""
    return run(MODULES[words[0]], *words[1:], *more.split(), cwd=folder)
