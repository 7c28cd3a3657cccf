"""Rows of TSV and CSV files of captions, with and without quoted fields."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence

from vtlm_fairseq.errors import VTLMError
from vtlm_fairseq.files.lines import stream_lines

QUOTING = ("none", "minimal")
"""Of Python's csv: a quote is a character like others; a field in double quotes may hold anything, a quote twice."""
DELIMITERS = {"tsv": "\t", "csv": ",;\t"}
"""What may stand between columns; of CSV, spreadsheets of other languages have others than commas."""

_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_LOOKED_AT, _FEW = 1000, 3


def table_rows(path: str, *, delimiter: str, quoting: str) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each row.

    Raises:
        VTLMError: quotes that do not close, or with text behind them; a file that cannot be read.
    """
    lines = stream_lines(path)
    if quoting == "none":
        for number, line in enumerate(lines, start=1):
            yield f"{path} line {number}", line.split(delimiter)
        return
    reader = csv.reader((line + "\n" for line in lines), delimiter=delimiter, strict=True)
    while True:
        place = f"{path} line {reader.line_num + 1}"
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise VTLMError(f"{place}: {error}; mend the quotes or see --quoting") from None
        yield place, row


def delimiter_of(path: str, layout: str, *, quoting: str, wanted: Sequence[str]) -> str:
    """The first of the layout's delimiters between which the first line has all columns; its usual one if none does."""
    for delimiter in DELIMITERS[layout]:
        try:
            _, row = next(table_rows(path, delimiter=delimiter, quoting=quoting), ("", []))
        except VTLMError:
            continue
        if all(int(name) <= len(row) if is_number(name) else row.count(name) == 1 for name in wanted):
            return delimiter
    return DELIMITERS[layout][0]


def columns_of(names: Sequence[str], wanted: Iterable[str], place: str) -> list[int]:
    """Positions, from 0, of columns that are given by number or by a name of the first line.

    Raises:
        VTLMError: no such column, or two of that name.
    """
    found = []
    for column in wanted:
        if is_number(column):
            found.append(int(column) - 1)
        elif names.count(column) == 1:
            found.append(names.index(column))
        else:
            count = "two columns" if column in names else "no column"
            raise VTLMError(f"{place}: {count} {column!r}, there are {', '.join(names)}; see --columns")
    return found


def is_number(column: str) -> bool:
    """Whether a column is given by its number."""
    return column.isdecimal() and len(column) < 10


class QuotesWatch:
    """Looks whether the quotes of a table that is read without quoting are those of CSV.

    Args:
        path: of the table, for messages.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._rows = self._quoted = self._bare = self._doubled = 0

    def look(self, fields: Iterable[str]) -> None:
        """See the fields of a row, of the first rows."""
        if self._rows >= _LOOKED_AT:
            return
        self._rows += 1
        fields = [field for field in fields if '"' in field]
        quoted = [field for field in fields if _QUOTED.fullmatch(field)]
        self._quoted += bool(quoted)
        self._bare += len(quoted) < len(fields)
        self._doubled += any('""' in field[1:-1] for field in quoted)
        if self._rows == _LOOKED_AT:
            self.judge()

    def judge(self) -> None:
        """At the end of the file, or of the rows that are looked at.

        Raises:
            VTLMError: all quotes stand around whole fields, in each row or with doubled ones inside.
        """
        if self._quoted >= _FEW and not self._bare and (self._doubled or self._quoted == self._rows):
            raise VTLMError(
                f"{self._path}: {self._quoted:,} of the first {self._rows:,} rows have fields in double quotes, as "
                "CSV has them: give --quoting minimal, or --quoting none where the quotes belong to the text"
            )
