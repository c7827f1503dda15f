"""Audio that callers send: how it is decoded, and how much of it is held."""

from __future__ import annotations

import asyncio
import io
import subprocess
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import EXTENSIONS, FakeService, free_port
from test_api import wav

from serve.schema import Model
from serve.uploads import TooLongError, Uploads, read_upload
from serve.wire import RefusedError
from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.errors import UserError


def noise(seconds: float, rate: int, channels: int) -> Audio:
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, round(seconds * rate)))
    return Audio(samples.astype(np.float32), rate)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.01, 4.0), st.sampled_from([8_000, 22_050, 24_000, 44_100, 96_000]), st.integers(1, 3), st.booleans())
def test_an_upload_is_what_reading_resampling_and_mixing_it_gives(
    seconds: float, rate: int, channels: int, is_flac: bool
) -> None:
    data = audio.to_bytes(noise(seconds, rate, channels), "flac" if is_flac else "wav")
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    expected = audio.to_mono(audio.resample(Audio(samples.T, rate), 24_000)).samples
    made = read_upload(io.BytesIO(data), 24_000, 10)
    assert (made.sample_rate, made.samples.dtype, made.samples.shape[0]) == (24_000, np.float32, 1)
    assert abs(made.samples.shape[1] - expected.shape[1]) <= 1
    both = min(made.samples.shape[1], expected.shape[1])
    assert np.abs(made.samples[:, :both] - expected[:, :both]).max(initial=0) < 1e-4


def test_an_upload_over_the_limit_is_left_where_it_is_passed() -> None:
    class Counted(io.BytesIO):
        count = 0

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            got = super().readinto(buffer)
            self.count += got
            return got

        def read(self, size: int | None = -1) -> bytes:
            got = super().read(size)
            self.count += len(got)
            return got

    data = Counted(wav(30.0, 8_000, 1))
    with pytest.raises(TooLongError, match="over the limit of 1 seconds; send less"):
        read_upload(data, 24_000, 1)
    # What libsndfile reads ahead is in it.
    assert data.count < len(data.getvalue())


def test_samples_that_are_no_numbers_are_refused() -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.array([0.0, np.nan, 0.1]), 24_000, "FLOAT", format="WAV")
    buffer.seek(0)
    with pytest.raises(UserError, match="samples that are not numbers"):
        read_upload(buffer, 24_000, 1)


def test_no_more_seconds_are_held_than_may_be() -> None:
    async def go() -> None:
        model: Model = await FakeService().describe()  # takes 60 seconds
        uploads = Uploads(100)

        def upload(seconds: float, clips: int = 1):  # type: ignore[no-untyped-def]
            return uploads.decoded(io.BytesIO(wav(seconds, 8_000, 1)), model, clips)

        async with AsyncExitStack() as first:
            one = await first.enter_async_context(upload(30, 2))
            assert one.samples.shape == (1, 30 * 24_000)
            for seconds, clips in ((41, 1), (21, 2)):
                with pytest.raises(RefusedError, match="too much audio is being continued"):
                    async with upload(seconds, clips):
                        pass
            async with upload(40):  # nothing more fits beside them
                with pytest.raises(RefusedError, match="too much audio is being continued"):
                    async with upload(0.1):
                        pass
        async with upload(59):
            pass
        with pytest.raises(TooLongError, match="limit of 60 seconds"):  # nobody else is in its way
            async with upload(61):
                pass
        with pytest.raises(TooLongError, match="limit of 25 seconds"):
            async with upload(26, 4):
                pass
        with pytest.raises(UserError, match="cannot be decoded"):
            async with uploads.decoded(io.BytesIO(b"nothing"), model, 1):
                pass
        async with upload(60):  # what was refused holds nothing
            pass

    asyncio.run(go())


def test_uploads_are_decoded_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = most = 0

    def slowly(*_: object) -> Audio:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return noise(0.1, 24_000, 1)

    monkeypatch.setattr("serve.uploads.read_upload", slowly)

    async def go() -> None:
        model, uploads = await FakeService().describe(), Uploads(100)

        async def one() -> None:
            async with uploads.decoded(io.BytesIO(), model, 1):
                await asyncio.sleep(0)

        await asyncio.gather(*(one() for _ in range(10)))

    asyncio.run(go())
    assert most == 1


# Stage 1 writes the same code at once: how long it reads what it continues is not asked here.
SERVER = """
import itertools
import sys
import numpy as np
import uvicorn
from serve.api import make_api
from serve.language_model import LanguageModel
from serve.limits import Limits
from serve.renderer import Renderer
from serve.service import Service

class Quick(LanguageModel):
    async def codes(self, request, frames, portions, primer_KT):
        for portion in itertools.chain(portions, itertools.repeat(portions[-1])):
            yield np.zeros((1, min(portion, frames)), np.int32)
            frames -= portion
            if frames <= 0:
                return

model = Quick(sys.argv[1])
service = Service(model, Renderer(sys.argv[1], model, 40))
uvicorn.run(make_api(service, Limits(burst=1000)), port=int(sys.argv[2]), log_level="warning")
"""


FIELDS = {"prompt": "x", "seconds": "1"}


def memory(process: int, name: str) -> float:
    """Of a process, in MB."""
    (line,) = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_twenty_uploads_of_the_worst_kinds_take_little_memory(bundle_uri: str) -> None:
    """Small files that are long at a high rate, all of which are taken or one of which is; all are answered."""

    def silence(seconds: int, channels: int) -> bytes:
        buffer = io.BytesIO()
        with soundfile.SoundFile(buffer, "w", 192_000, channels, "PCM_16", format="FLAC") as file:
            for _ in range(seconds):
                file.write(np.zeros((192_000, channels), np.int16))
        return buffer.getvalue()

    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, bundle_uri, str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            for _ in range(600):
                with suppress(httpx.HTTPError):
                    if client.get("/readyz").status_code == 200:
                        break
                time.sleep(0.1)

        async def ask(uploads: list[bytes]) -> Counter[int]:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=200) as client:

                async def one(upload: bytes) -> int:
                    files = {"audio": ("a.flac", upload)}
                    async with client.stream("POST", EXTENSIONS, data=FIELDS, files=files) as answer:
                        async for _ in answer.aiter_raw():
                            pass
                        return answer.status_code

                return Counter(await asyncio.gather(*map(one, uploads)))

        brief, short, long = silence(1, 8), silence(29, 2), silence(590, 1)
        assert len(long) < 400_000
        asyncio.run(ask([brief] * 8))
        idle = memory(process.pid, "VmRSS")
        for uploads in ([short] * 20, [long] * 20):
            statuses = asyncio.run(ask(uploads))
            peak = memory(process.pid, "VmHWM")
            after = memory(process.pid, "VmRSS")
            print(
                f"{statuses}: {idle:.0f} MB idle, {peak:.0f} MB at most, {after:.0f} MB after it"
            )  # shown with pytest -rP
            assert statuses[200] >= 1
            assert statuses[200] + statuses[429] == 20
            assert peak - idle <= 300
    finally:
        process.terminate()
        process.wait(30)
