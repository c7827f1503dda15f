"""Encoded audio files whose bytes follow from the audio and its metadata alone."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

from ssmttm import audio
from ssmttm.audio import Audio

_REVERSED_BYTES = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_SERIAL_AT, _CRC_AT, _SEGMENTS_AT, _HEADER = 14, 22, 26, 27


def encode(clip: Audio, extension: str, metadata: dict[str, Any]) -> bytes:
    """Encode a clip as WAV, FLAC or OGG with its metadata; equal input gives equal bytes.

    Raises:
        UserError: for an unknown extension.
    """
    data = audio.to_bytes(clip, extension, metadata)
    if extension != "ogg":
        return data
    described = json.dumps(metadata, sort_keys=True).encode()
    return _with_ogg_serial(data, int.from_bytes(hashlib.sha256(described).digest()[:4], "little"))


def _with_ogg_serial(data: bytes, serial: int) -> bytes:
    """Replace the stream serial number, which libsndfile draws from the clock, in every Ogg page (RFC 3533)."""
    pages = bytearray(data)
    position = 0
    while position < len(pages):
        segments = pages[position + _SEGMENTS_AT]
        lengths = pages[position + _HEADER : position + _HEADER + segments]
        end = position + _HEADER + segments + sum(lengths)
        struct.pack_into("<I", pages, position + _SERIAL_AT, serial)
        struct.pack_into("<I", pages, position + _CRC_AT, 0)
        struct.pack_into("<I", pages, position + _CRC_AT, _ogg_crc(bytes(pages[position:end])))
        position = end
    return bytes(pages)


def _ogg_crc(page: bytes) -> int:
    """RFC 3533's checksum: the polynomial of zlib's CRC-32, but most significant bit first, from zero, not inverted."""
    reflected = zlib.crc32(page.translate(_REVERSED_BYTES), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{reflected:032b}"[::-1], 2)
