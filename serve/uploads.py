"""Audio that callers send, which may be anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import BinaryIO

from serve.schema import Model
from serve.wire import Refusal, RefusedError
from ssmttm.audio import Audio, mono_at
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import open_stream

MOST_CHANNELS, LOWEST_RATE, HIGHEST_RATE = 8, 8_000, 192_000
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
        self._decoding, self._thread = asyncio.Lock(), ThreadPoolExecutor(1, "uploads")

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
                loop = asyncio.get_running_loop()
                audio = await loop.run_in_executor(self._thread, read_upload, data, model.sample_rate, room)
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
        UserError: if it is no audio, incomplete, or of an unusual rate or number of channels.
    """
    try:
        with open_stream(data, limit_s=max_seconds) as source:
            if not (LOWEST_RATE <= source.sample_rate <= HIGHEST_RATE and source.channels <= MOST_CHANNELS):
                raise UserError(
                    f"the upload has {source.channels} channels at {source.sample_rate} Hz; send up to {MOST_CHANNELS} "
                    f"channels at {LOWEST_RATE} to {HIGHEST_RATE} Hz"
                )
            if source.seconds > max_seconds:
                raise TooLongError(f"the upload is over the limit of {max_seconds:g} seconds; send less")
            if source.is_cut:
                raise UserError(f"the upload is truncated ({source.claim}); send all of it")
            return mono_at(source, sample_rate)
    except UnusableAudioError as error:
        raise UserError(
            f"the upload cannot be decoded ({error.reason}: {error.detail}); send a WAV, FLAC, OGG, MP3 or M4A file"
        ) from None
