"""Text that people and spreadsheets wrote, whatever its encoding, and the rows of tables in it: separated by commas,
semicolons or TABs."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from ssmttm import storage
from ssmttm.errors import UserError
from ssmttm.spreadsheet import FIELD_LIMIT

# The marks that texts may begin with, the longer first: that of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LAYOUT = "\t\n\v\f\r\x1a\x1b"  # control characters that texts hold


def decode_text(data: bytes, name: str) -> str:
    """The text in a file: UTF-8, UTF-16 or UTF-32, told by its byte order mark, which is no part of it, or by where the
    zero bytes lie; else Windows-1252, which holds all that Latin-1 has to print.

    Args:
        data: the file's bytes.
        name: of the file, for the message.

    Raises:
        UserError: if it is no text.
    """
    text = _decoded(data)
    controls = sum(letter < " " and letter not in _LAYOUT for letter in text)
    if controls > len(text) // 20:
        raise UserError(f"{name} is no text; save it as UTF-8")
    return text


def _decoded(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, errors="replace").removeprefix("\ufeff")
    half = len(data) // 2
    if half and not len(data) % 2:
        for encoding, zeros in (("utf-16-le", data[1::2].count(0)), ("utf-16-be", data[::2].count(0))):
            if zeros > 0.9 * half:  # as all Western text has it
                return data.decode(encoding, errors="replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        # The five bytes that Windows-1252 leaves open are control characters in Latin-1.
        return "".join(bytes([byte]).decode("cp1252", errors="ignore") or chr(byte) for byte in data)


def read_table_text(uri: str) -> str:
    """`decode_text` of a file.

    Raises:
        UserError: if it does not exist or is no text.
    """
    return decode_text(storage.read_bytes(uri), uri)


def parse_json(text: str) -> Any:
    """A JSON value.

    Raises:
        UserError: in one line, if it is not JSON, is nested too deeply or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"not valid JSON: {error}") from None


def csv_rows(uri: str, separator: str = ",") -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every row of a CSV file that is not blank. A row's number is that of its last line:
    quoted cells may hold line breaks.

    Raises:
        UserError: if the file does not exist or is no CSV.
    """
    csv.field_size_limit(FIELD_LIMIT)
    reader = csv.reader(io.StringIO(read_table_text(uri), newline=""), delimiter=separator)
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
