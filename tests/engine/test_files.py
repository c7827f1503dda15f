from __future__ import annotations

import io
import time

import numpy as np
import soundfile

from ssmttm.audio import Audio
from ssmttm.engine import files

CLIP = Audio(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 200_000)).astype(np.float32), 24_000)


def test_ogg_bytes_do_not_depend_on_the_clock() -> None:
    first = files.encode(CLIP, "ogg", {"prompt": "waltz", "seed": 1})
    time.sleep(1.1)  # libsndfile seeds its serial numbers with the time in seconds
    assert files.encode(CLIP, "ogg", {"prompt": "waltz", "seed": 1}) == first
    assert files.encode(CLIP, "ogg", {"prompt": "waltz", "seed": 2}) != first


def test_rewritten_ogg_pages_have_valid_checksums() -> None:
    data = files.encode(CLIP, "ogg", {"prompt": "waltz", "seed": 1})
    decoded, _ = soundfile.read(io.BytesIO(data))  # libogg drops pages whose checksum is wrong
    assert len(decoded) == 200_000


def test_checksum_is_that_of_libogg() -> None:
    data = soundfile_ogg()
    end = data.index(b"OggS", 4)  # the first page
    page = data[:22] + bytes(4) + data[26:end]
    assert files._ogg_crc(page) == int.from_bytes(data[22:26], "little")


def soundfile_ogg() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, CLIP.samples.T, 24_000, format="OGG", subtype="VORBIS")
    return buffer.getvalue()
