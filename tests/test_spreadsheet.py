"""Tables that people open: no formula in them, whatever the names, and nothing lost."""

from __future__ import annotations

import ast
import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.spreadsheet import from_csv, to_csv

DANGEROUS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
CELLS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("=+-@\t\r\n',\";｜＝"), max_size=12)


@pytest.mark.parametrize(
    "cell",
    ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1+1", "-", "=", "'=1", "''=1"],
)
def test_a_formula_is_written_as_text(cell: str) -> None:
    text = to_csv(["title"], [[cell]])
    (seen,) = list(csv.reader(io.StringIO(text, newline="")))[1]  # as a spreadsheet has it
    assert seen == "'" + cell
    assert from_csv(text) == [{"title": cell}]


def test_everything_else_is_written_as_it_is() -> None:
    cells = ["'Round Midnight", "it's = 1", "1-2", "a,b", 'the "one"', -3.5, -2, "", "’tis"]
    text = to_csv([f"column {i}" for i in range(len(cells))], [cells])
    assert text.splitlines()[1] == '\'Round Midnight,it\'s = 1,1-2,"a,b","the ""one""",-3.5,-2,,’tis'


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=4), st.tuples(CELLS, CELLS))
def test_what_is_written_is_read_and_no_cell_is_a_formula(
    rows: list[tuple[str, str, str]], end: tuple[str, str]
) -> None:
    head = ("one", "two\r" + end[0], "=three" + end[1])
    text = to_csv(head, rows)
    assert from_csv(text) == [dict(zip(head, row, strict=True)) for row in rows]
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not any(cell.startswith(DANGEROUS) for cell in row)


def test_tables_of_before_and_short_rows_are_read() -> None:
    assert from_csv("a,b,c\r\n=1,'x\r\n\r\n") == [{"a": "=1", "b": "'x", "c": ""}]
    assert from_csv("") == []


def test_nothing_else_writes_tables() -> None:
    root = Path(__file__).parent.parent
    writers = set()
    for folder in ("ssmttm", "serve", "jobs", "tuning"):
        for path in (root / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in ("writer", "DictWriter", "to_csv", "savetxt"):
                    writers.add(path.relative_to(root).as_posix())
    assert writers == {"ssmttm/spreadsheet.py"}
