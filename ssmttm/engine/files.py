"""Encoded audio files whose bytes follow from the audio and its metadata alone."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from typing import Any

import numpy as np

import ssmttm
from ssmttm import audio, tags
from ssmttm.audio import Audio

_REVERSED_BYTES = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_SERIAL_AT, _CRC_AT, _SEGMENTS_AT, _HEADER = 14, 22, 26, 27


def provenance(model_id: str, prompt: str, seed: int, asked: dict[str, Any] | None = None) -> dict[str, Any]:
    """What every file says of itself: that it is AI-generated, by which model, and from what; `asked`: besides text,
    see `MusicRequest.told`."""
    return {
        "ai_generated": True,
        "notice": "AI-generated",
        "model": model_id,
        "prompt": prompt,
        "prompt_sha256": hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest(),
        "seed": seed,
        **({"asked": asked} if asked else {}),
        "software": f"ssmttm {ssmttm.__version__}",
    }


def encode(clip: Audio, extension: str, metadata: dict[str, Any]) -> bytes:
    """Encode a clip as WAV, FLAC, OGG or MP3 with its metadata; equal input gives equal bytes.

    Raises:
        UserError: for an unknown extension.
    """
    data = audio.to_bytes(clip, extension, metadata)
    if extension != "ogg":
        return data
    described = json.dumps(metadata, sort_keys=True).encode()
    return _with_ogg_serial(data, int.from_bytes(hashlib.sha256(described).digest()[:4], "little"))


def wav_header(samples: int, sample_rate: int, metadata: dict[str, Any]) -> bytes:
    """The beginning of a mono 16-bit WAV file whose samples follow as they are made (RIFF, with the comment first)."""
    told = tags.riff_info({tags.COMMENT: json.dumps(metadata, ensure_ascii=True, sort_keys=True)})
    layout = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    chunks = struct.pack("<4sI", b"fmt ", len(layout)) + layout + told
    data = struct.pack("<4sI", b"data", 2 * samples)
    return struct.pack("<4sI4s", b"RIFF", 4 + len(chunks) + len(data) + 2 * samples, b"WAVE") + chunks + data


def pcm16(samples: np.ndarray) -> bytes:
    """Float samples as the 16-bit ones that `encode` writes into a WAV file: libsndfile rounds to 32 bits, clips, and
    keeps the upper half."""
    wide = np.rint(samples.astype(np.float64) * 2**31).clip(-(2**31), 2**31 - 1)
    return (wide.astype(np.int64) >> 16).astype("<i2").tobytes()


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
