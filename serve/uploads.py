"""Audio that callers send, which may be anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from serve.schema import Model
from serve.wire import Refusal, RefusedError
from ssmttm.audio import Audio
from ssmttm.errors import UserError

MOST_CHANNELS, LOWEST_RATE, HIGHEST_RATE = 8, 8_000, 192_000
BLOCK = 1 << 16
FULL = Refusal(429, "too much audio is being continued; try again later", 5)


class TooLongError(UserError):
    """An upload that holds more than it may."""


class Uploads:
    """Decodes what callers send, one file after the other, and bounds how much of it is held.

    Args:
        most_s: seconds held at a time, once for each clip that continues them.
    """

    def __init__(self, most_s: float):
        self._most_s, self._held_s = most_s, 0.0
        self._decoding = asyncio.Lock()

    @asynccontextmanager
    async def decoded(self, data: BinaryIO, model: Model, clips: int) -> AsyncIterator[Audio]:
        """An uploaded file at the model's rate, held until the block ends.

        Args:
            clips: how many will continue it.

        Raises:
            RefusedError: if others hold so much that it does not fit beside it.
            UserError: as `read_upload`.
        """
        async with self._decoding:
            longest = min(model.max_seconds, self._most_s / clips)
            room = min(longest, (self._most_s - self._held_s) / clips)
            if room <= 0:
                raise RefusedError(FULL)
            try:
                audio = await asyncio.to_thread(read_upload, data, model.sample_rate, room)
            except TooLongError:
                if room < longest:  # alone it might have been welcome
                    raise RefusedError(FULL) from None
                raise
            held_s = audio.seconds * clips
            self._held_s += held_s
        try:
            yield audio
        finally:
            self._held_s -= held_s


def read_upload(data: BinaryIO, sample_rate: int, max_seconds: float) -> Audio:
    """Decode an uploaded file to one channel at a rate, block by block: what its header says of its length need not be
    true, and at its own rate it may be much larger.

    Raises:
        TooLongError: if it is longer than `max_seconds`.
        UserError: if it is no audio, or of an unusual rate or number of channels.
    """
    # It grows in place; a list of blocks would be copied, and twice as large while it is.
    samples = bytearray()
    try:
        with soundfile.SoundFile(data) as file:
            if not (LOWEST_RATE <= file.samplerate <= HIGHEST_RATE and 1 <= file.channels <= MOST_CHANNELS):
                raise UserError(
                    f"the upload has {file.channels} channels at {file.samplerate} Hz; send up to {MOST_CHANNELS} "
                    f"channels at {LOWEST_RATE} to {HIGHEST_RATE} Hz"
                )
            left = int(max_seconds * file.samplerate)
            resampled = soxr.ResampleStream(file.samplerate, sample_rate, 1, "float32", "HQ")
            while len(block_NC := file.read(BLOCK, dtype="float32", always_2d=True)):
                left -= len(block_NC)
                if left < 0:
                    raise TooLongError(f"the upload is over the limit of {max_seconds:g} seconds; send less")
                if not np.isfinite(block_NC).all():
                    raise UserError("the upload holds samples that are not numbers; export it again")
                samples += resampled.resample_chunk(block_NC.mean(axis=1, dtype=np.float32)).tobytes()
            samples += resampled.resample_chunk(np.zeros(0, np.float32), last=True).tobytes()
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError("the upload cannot be decoded; send a WAV, FLAC, OGG or MP3 file") from error
    return Audio(np.frombuffer(samples, np.float32)[None], sample_rate)
