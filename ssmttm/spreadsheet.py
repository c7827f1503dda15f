"""CSV that people open in a spreadsheet: no text of ours is a formula there, and reading gives back what was written.

Titles and names come from strangers. A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@`, or with white
space that it drops before one of these, for a formula and may run it; behind an apostrophe it is text. Numbers, which
are no texts, are written as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

FIELD_LIMIT = 1 << 26  # characters of a cell; the csv module stops before the longest biographies in published tables
# With apostrophes in front, so that a text which looks as if it had been written by us comes back whole too.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")


def _written(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _read(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def to_csv(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as text, a line for its head and one for each row; only cells that must be are quoted."""
    lines = []
    for row in (head, *rows):
        line = io.StringIO()
        # The line end says what is quoted besides: a carriage return alone would end the row for whoever reads it.
        csv.writer(line, lineterminator="\r\n").writerow([_written(cell) for cell in row])
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def from_csv(text: str) -> list[dict[str, str]]:
    """The rows of a table that `to_csv` wrote, or of one from before there was such a rule, by column; what a short
    row lacks is empty."""
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    head = [_read(cell) for cell in next(reader, [])]
    rows = ([_read(cell) for cell in row] for row in reader if row)
    return [dict(zip(head, [*row, *[""] * len(head)], strict=False)) for row in rows]
