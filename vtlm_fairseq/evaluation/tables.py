"""One table class for all commands that print results: text, Markdown, LaTeX, CSV or JSON."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tabulate import tabulate

from vtlm_fairseq.errors import UNPRINTABLE, VTLMError, printable
from vtlm_fairseq.evaluation.options import System
from vtlm_fairseq.evaluation.plots import check_plot
from vtlm_fairseq.files import check_new_folder, check_writable, write_text
from vtlm_fairseq.files.inputs import refuse_input
from vtlm_fairseq.terminal import say, write_out

Cell = str | int | float | None
FORMATS = ("text", "markdown", "latex", "csv", "json")

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "±": r"$\pm$",
}  # fmt: skip


@dataclass
class Table:
    """Results in rows and named columns.

    Attributes:
        columns: names, all different.
        rows: one cell a column; None is an empty cell.
        title: one line above the table.
        notes: lines below it. CSV has neither title nor notes, so that any reader takes it.
        precision: digits after the point of a column's floats, by column; 2 where not given. CSV and JSON hold
            unrounded values.
    """

    columns: list[str]
    rows: list[list[Cell]]
    title: str = ""
    notes: list[str] = field(default_factory=list)
    precision: dict[str, int] = field(default_factory=dict)

    def render(self, format: str = "text") -> str:
        """The table in one of `FORMATS`, without a newline at its end. Control characters are escaped, but in CSV.

        Raises:
            VTLMError: another format.
            ValueError: a row has not one cell for each column, or two columns have the same name.
        """
        if format not in FORMATS:
            raise VTLMError(f"--format {format}: not one of {', '.join(FORMATS)}")
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"columns with the same name: {self.columns}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(row)} cells for {len(self.columns)} columns: {row}")
        if format in ("csv", "json"):
            return getattr(self, f"_{format}")()
        shown = Table(
            [printable(name) for name in self.columns],
            [[printable(cell) if isinstance(cell, str) else cell for cell in row] for row in self.rows],
            title=printable(self.title),
            notes=[printable(note) for note in self.notes],
            precision={printable(name): digits for name, digits in self.precision.items()},
        )
        return getattr(shown, f"_{format}")()

    def _formatted(self) -> list[list[str]]:
        return [
            [_format(cell, self.precision.get(name, 2)) for name, cell in zip(self.columns, row, strict=True)]
            for row in self.rows
        ]

    def _numeric(self) -> list[bool]:
        """Whether a column holds numbers only, at least one."""
        columns = [[row[k] for row in self.rows if row[k] is not None] for k in range(len(self.columns))]
        return [bool(cells) and not any(isinstance(cell, str) for cell in cells) for cells in columns]

    def _laid_out(self, layout: str, escape: Callable[[str], str] = str) -> str:
        """Head and rows in a layout of tabulate, numbers to the right."""
        return tabulate(
            [[escape(cell) for cell in row] for row in self._formatted()],
            [escape(name) for name in self.columns],
            tablefmt=layout,
            colalign=["right" if right else "left" for right in self._numeric()] if self.rows else None,
            disable_numparse=True,
            preserve_whitespace=True,
        )

    def _text(self) -> str:
        lines = [line.rstrip() for line in self._laid_out("simple").split("\n")]
        return "\n".join([*([self.title] if self.title else []), *lines, *self.notes])

    def _markdown(self) -> str:
        above = [f"**{self.title}**", ""] if self.title else []
        below = ["", *(f"* {note}" for note in self.notes)] if self.notes else []
        return "\n".join([*above, self._laid_out("pipe", lambda cell: cell.replace("|", "\\|")), *below])

    def _latex(self) -> str:
        comments = [f"% {line}" for line in [self.title, *self.notes] if line]
        return "\n".join([*comments, self._laid_out("latex_raw", _latex_text)])

    def _csv(self) -> str:
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(["" if cell is None else cell for cell in row] for row in self.rows)
        return out.getvalue().rstrip("\n")

    def _json(self) -> str:
        rows = [{name: _json_value(cell) for name, cell in zip(self.columns, row, strict=True)} for row in self.rows]
        content = {"title": self.title, "columns": self.columns, "rows": rows, "notes": self.notes}
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        return "\n".join(UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in text.split("\n"))


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--format`` and ``--out``; for `check_out` and `publish`."""
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="how the table is printed (default: text); csv and json hold "
        "unrounded values"
    )  # fmt: skip
    parser.add_argument("--out", metavar="FILE", help="write the table to a file (default: standard output)")


def check_out(args: argparse.Namespace) -> None:
    """Find out before the work that ``--out``, ``--sentences``, ``--plot`` or the folder of ``--write`` cannot be
    written, or that an output would replace a file of the same command.

    Raises:
        VTLMError: so it is.
    """
    for name in ("out", "sentences"):
        if getattr(args, name, None) is not None:
            check_writable(getattr(args, name), label=f"--{name} {getattr(args, name)}")
    if isinstance(getattr(args, "plot", None), Path):
        check_plot(args.plot)
    if isinstance(getattr(args, "write", None), Path):
        check_new_folder(args.write)
    given = {name: value for name, value in vars(args).items() if name in (*_OUTPUTS, *_INPUTS)}
    for name in _OUTPUTS:
        for other, values in given.items():
            if other == name or given.get(name) is None:
                continue
            refuse_input(given[name], _flat(values), label=f"--{name} {given[name]}")


_OUTPUTS = ("out", "sentences", "plot")
_INPUTS = ("hyp", "ref", "raw_ref", "src", "baseline", "set", "system", "subset", "text_json", "correct", "incorrect",
           "images", "lines", "words", "data", "systems", "regions", "entities", "class_lexicon")  # fmt: skip


def _flat(values: object) -> Iterator[str]:
    if isinstance(values, str | os.PathLike):
        yield os.fspath(values)
    elif isinstance(values, System):
        yield from values.paths
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _flat(value)


def publish(table: Table, args: argparse.Namespace) -> None:
    """Print a table, or write it to ``--out``. What it took hours to compute is not lost with its target.

    Raises:
        VTLMError: ``--out`` cannot be written; the table is printed instead.
        OSError: standard output cannot be written; the table is on standard error instead.
    """
    text = table.render(args.format)
    if args.out is not None:
        try:
            write_text(args.out, f"{text}\n", label=f"--out {args.out}")
        except VTLMError:
            write_out(text)
            raise
        return
    try:
        write_out(text)
        sys.stdout.flush()
    except BrokenPipeError:  # its reader has seen enough
        raise
    except OSError:
        say(text, file=sys.stderr)
        raise


def _format(cell: Cell, precision: int) -> str:
    if cell is None:
        return ""
    return f"{cell:.{precision}f}" if isinstance(cell, float) else str(cell)


def _json_value(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _latex_text(text: str) -> str:
    escape: Callable[[re.Match[str]], str] = lambda match: _LATEX[match[0]]  # noqa: E731
    return re.sub("[" + re.escape("".join(_LATEX)) + "]", escape, text)
