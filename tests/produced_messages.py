"""Which messages a run of the tests produces: in a copy of the code, each place of a message marks when it is reached.

    python tests/produced_messages.py -n 2                               # all tests; arguments are pytest's
    python tests/produced_messages.py --keep DIR tests/unit              # some; DIR keeps the marks for the next run
    python tests/produced_messages.py --keep DIR --report                # run nothing

Ends with status 1 and a line for each message that was not reached. A message that is only reached was still not read:
`tests/unit/test_messages.py` demands its words in a test. The marks are files, so that they outlive forked commands,
workers of loaders and killed processes. Tests that read the code itself, such as that one, fail in the copy.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("unit", "pitfalls")]

from check import copy_checkout  # noqa: E402
from test_messages import SOURCES, Message, messages_of  # noqa: E402

IN_BASH = re.compile(r'echo "error: [^"\n]*')


def mark_python(file: str, source: str, marks: Path) -> tuple[str, list[Message]]:
    """A file's text in which each message leaves a mark when it is made, and the messages.

    Args:
        file: its path from the root of the checkout.
        source: its text.
        marks: folder of marks; a mark's name is file and line.
    """
    lines = [line.encode() for line in source.split("\n")]
    messages = list(messages_of(file, source))
    places: list[tuple[int, int, bytes]] = []
    for message in messages:
        called = message.called
        mark = f'(__import__("pathlib").Path("{mark_of(message, marks)}").touch() or '
        places.append((called.lineno, called.col_offset, mark.encode()))
        places.append((called.end_lineno or 0, called.end_col_offset or 0, b")"))
    for number, column, text in sorted(places, key=lambda place: place[:2], reverse=True):
        line = lines[number - 1]
        lines[number - 1] = line[:column] + text + line[column:]
    marked = b"\n".join(lines).decode()
    ast.parse(marked, file)
    return marked, messages


def mark_bash(file: str, source: str, marks: Path) -> tuple[str, list[Message]]:
    """The same for a bash script."""
    lines, messages = source.split("\n"), []
    for number, line in enumerate(lines, 1):
        if found := IN_BASH.search(line):
            message = Message(file, number, Path(file).stem, found[0], None)
            messages.append(message)
            lines[number - 1] = f'{line[: found.start()]}: >"{mark_of(message, marks)}"; {line[found.start() :]}'
    return "\n".join(lines), messages


def mark_of(message: Message, marks: Path) -> Path:
    """Where a message leaves its mark."""
    return marks / f"{message.file.replace('/', '.')}.{message.line}"


def mark_copy(copy: Path, marks: Path) -> list[Message]:
    """Put marks into all files of a copy of the checkout; the messages."""
    found = []
    for path in sorted(path for folder in SOURCES for path in (copy / folder).rglob("*")):
        if path.suffix in (".py", ".sh"):
            change = mark_python if path.suffix == ".py" else mark_bash
            text, messages = change(str(path.relative_to(copy)), path.read_text(encoding="utf-8"), marks)
            path.write_text(text, encoding="utf-8")
            found += messages
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 where every message was produced."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the marks there, beside those of the same code")
    parser.add_argument("--report", action="store_true", help="run no tests")
    args, pytest = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory(prefix="messages-") as folder:
        copy = Path(folder).resolve() / "checkout"
        marks = (args.keep or Path(folder, "marks")).resolve()
        marks.mkdir(parents=True, exist_ok=True)
        copy_checkout(copy)
        messages = mark_copy(copy, marks)
        if not args.report:
            environment = {**os.environ, "PYTHONPATH": str(copy)}
            subprocess.run([sys.executable, "-m", "pytest", *(pytest or ["tests"])], cwd=copy, env=environment)
        missing = [message for message in messages if not mark_of(message, marks).exists()]
    for message in missing:
        print(f"{message.file}:{message.line} {message.place}: {message.text}")
    print(f"{len(messages) - len(missing)} of {len(messages)} messages were produced")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
