"""Audio that callers send, which may be anything."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import soundfile

from ssmttm.audio import Audio
from ssmttm.errors import UserError

MOST_CHANNELS, LOWEST_RATE, HIGHEST_RATE = 8, 8_000, 192_000
BLOCK = 1 << 16


def read_upload(data: BinaryIO, max_seconds: float) -> Audio:
    """Decode an uploaded file, block by block: what its header says of its length need not be true.

    Raises:
        UserError: if it is no audio, longer than `max_seconds`, or of an unusual rate or number of channels.
    """
    try:
        with soundfile.SoundFile(data) as file:
            if not (LOWEST_RATE <= file.samplerate <= HIGHEST_RATE and 1 <= file.channels <= MOST_CHANNELS):
                raise UserError(
                    f"the upload has {file.channels} channels at {file.samplerate} Hz; send up to {MOST_CHANNELS} "
                    f"channels at {LOWEST_RATE} to {HIGHEST_RATE} Hz"
                )
            blocks, left = [], int(max_seconds * file.samplerate)
            while len(block := file.read(BLOCK, dtype="float32", always_2d=True)):
                left -= len(block)
                if left < 0:
                    raise UserError(f"the upload is over the limit of {max_seconds:g} seconds; send less")
                blocks.append(block.mean(axis=1, dtype=np.float32))
            rate = file.samplerate
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError("the upload cannot be decoded; send a WAV, FLAC, OGG or MP3 file") from error
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    if not np.isfinite(samples).all():
        raise UserError("the upload holds samples that are not numbers; export it again")
    return Audio(samples[None], rate)
