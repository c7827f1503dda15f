"""Rows of text tables: comma-separated with quotes, or tab-separated without."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from ssmttm import storage
from ssmttm.errors import UserError

FIELD_LIMIT = 1 << 26  # characters; the csv module's own limit is below the longest biographies in published tables


def read_table_text(uri: str) -> str:
    """A table's text, without a byte-order mark.

    Raises:
        UserError: if it does not exist or is not UTF-8.
    """
    try:
        return storage.read_text(uri).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{uri} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None


def csv_rows(uri: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row of a CSV file that is not blank. A row's number is that of its last line:
    quoted cells may hold line breaks.

    Raises:
        UserError: if the file does not exist or is no CSV.
    """
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(read_table_text(uri), newline=""))
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                yield reader.line_num, row
    except csv.Error as error:
        raise UserError(f"{uri} line {reader.line_num} is not CSV: {error}") from None


def tsv_rows(uri: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row of a TAB-separated file. Quotes are letters like any other, as titles hold
    unpaired ones."""
    for number, line in enumerate(read_table_text(uri).split("\n"), start=1):
        if line.strip():
            yield number, line.rstrip("\r").split("\t")
