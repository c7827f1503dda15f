"""What an audio file says of itself: title, software and comment, where libsndfile would cut or garble them.

It reads no more than 2 KB of a WAV file's comment, leaves out one of 90 KB, and hands UTF-8 to an MP3 encoder that
takes it for Latin-1. FLAC and OGG it does right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

TITLE, SOFTWARE, COMMENT = b"INAM", b"ISFT", b"ICMT"  # of RIFF's INFO list


def riff_info(tags: dict[bytes, str]) -> bytes:
    """The chunk of a RIFF file that holds these texts, by their four letters, as UTF-8."""
    told = b"INFO"
    for name, text in tags.items():
        encoded = text.encode("utf-8", "replace")
        told += _chunk(name, encoded + bytes(2 - len(encoded) % 2))  # ends with a zero, at an even length
    return _chunk(b"LIST", told)


def with_riff_info(data: bytes, tags: dict[bytes, str]) -> bytes:
    """A WAV file with these texts before its samples."""
    at = next(start for name, start, _ in _chunks(data, 12, len(data)) if name == b"data") - 8
    told = riff_info(tags)
    head = data[:4] + struct.pack("<I", len(data) - 8 + len(told)) + data[8:at]
    return b"".join([head, told, memoryview(data)[at:]])


def riff_comment(data: bytes) -> str | None:
    """The comment of a WAV file, however long; None if there is none, or it is no WAV file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        return None
    for name, start, end in _chunks(data, 12, len(data)):
        if name == b"LIST" and data[start : start + 4] == b"INFO":
            for inner, first, last in _chunks(data, start + 4, end):
                if inner == COMMENT:
                    return data[first:last].split(b"\0")[0].decode("utf-8", "replace")
    return None


def id3(title: str, software: str, comment: str) -> bytes:
    """The beginning of an MP3 file that says this (ID3v2.3, whose only Unicode is UTF-16; the comment is ASCII)."""
    frames = _frame(b"TSSE", b"\0" + software.encode("latin-1"))
    if title:
        frames += _frame(b"TIT2", b"\1\xff\xfe" + title.encode("utf-16-le", "replace"))
    frames += _frame(b"COMM", b"\0eng\0" + comment.encode("ascii"))
    size = [len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0)]
    return b"ID3\3\0\0" + bytes(size) + frames


def _frame(name: bytes, content: bytes) -> bytes:
    return struct.pack(">4sIH", name, len(content), 0) + content


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content


def _chunks(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each chunk; one that claims more than there is ends with the file."""
    while start + 8 <= end:
        name, size = struct.unpack_from("<4sI", data, start)
        yield name, start + 8, min(start + 8 + size, end)
        start += 8 + size + size % 2
