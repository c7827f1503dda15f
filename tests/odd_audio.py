"""Odd audio files, made from nothing, and what becomes of each: what people's recorders, pipes, encoders, taggers and
broken downloads leave. Each holds `SECONDS` of music that no other does.
"""

from __future__ import annotations

import io
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE = 22_050
SECONDS = 3.0
SEGMENT_SECONDS = 1.0  # what `used` was counted with


@dataclass(frozen=True)
class Verdict:
    """used: seconds in rows. reasons: of what is refused. claim: whether a line says that the stated length is wrong.
    opens: whether the file itself is found to be sound, whatever its samples are like."""

    used: float
    reasons: frozenset[str] = frozenset()
    claim: bool = False
    opens: bool = True


def used(seconds: float = SECONDS, claim: bool = False) -> Verdict:
    return Verdict(seconds, claim=claim)


def refused(reason: str) -> Verdict:
    return Verdict(0.0, frozenset({reason}), opens=False)


def cut(seconds: float) -> Verdict:
    """Breaks off after so many seconds: what ends there is refused."""
    whole = SEGMENT_SECONDS * ((seconds - 0.5) // SEGMENT_SECONDS)
    return Verdict(whole, frozenset({"truncated"}), claim=True)


def of_its_samples(reason: str, seconds: float = 0.0) -> Verdict:
    return Verdict(seconds, frozenset({reason}))


_count = 0


def music(seconds: float = SECONDS, channels: int = 2, rate: int = RATE, gain: float = 0.3) -> np.ndarray:
    """float32 [N, C]: a tone with a beat in a little noise, another one each time."""
    global _count
    _count += 1
    rng, time = np.random.default_rng(_count), np.arange(round(seconds * rate)) / rate
    tone = np.sin(2 * np.pi * 110 * 2 ** (rng.integers(0, 36) / 12) * time) * (0.6 + 0.4 * np.sin(4 * np.pi * time))
    noise = rng.standard_normal((len(time), channels))
    return (gain * tone[:, None] + 0.02 * noise).astype(np.float32)


def sound(container: str, subtype: str | None = None, samples: np.ndarray | None = None, rate: int = RATE) -> bytes:
    """A file as libsndfile writes it."""
    buffer = io.BytesIO()
    soundfile.write(buffer, music() if samples is None else samples, rate, subtype, format=container)
    return buffer.getvalue()


def ffmpeg(container: str, codec: str, rate: int = RATE, **options: str) -> bytes:
    """A file as FFmpeg writes it."""
    import av

    samples_NC = music(rate=rate)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "made")  # by name, as moving the index to the front needs to read what was written
        with av.open(str(path), "w", format=container, options=options) as out:
            stream = out.add_stream(codec, rate=rate, layout="stereo")
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_NC.T), format="fltp", layout="stereo")
            frame.sample_rate = rate
            context = stream.codec_context
            context.bit_rate = 128_000
            context.open()
            resampler = av.AudioResampler(context.format, context.layout, rate, frame_size=context.frame_size or None)
            for piece in (*resampler.resample(frame), *resampler.resample(None), None):
                for packet in stream.encode(piece):
                    out.mux(packet)
        return path.read_bytes()


def patched(data: bytes, place: int, fresh: bytes) -> bytes:
    return data[:place] + fresh + data[place + len(fresh) :]


def sized(data: bytes, name: bytes, size: int, form: str = "<I") -> bytes:
    """With another size in the chunk of that name."""
    return patched(data, data.index(name) + len(name), struct.pack(form, size))


def part(data: bytes, share: float) -> bytes:
    return data[: round(share * len(data))]


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def before_data(data: bytes, fresh: bytes) -> bytes:
    place = data.index(b"data")
    return data[:place] + fresh + data[place:]


def id3(size: int = 300, stated: int | None = None) -> bytes:
    length = size if stated is None else stated
    return b"ID3\4\0\0" + bytes(length >> shift & 127 for shift in (21, 14, 7, 0)) + bytes(size)


ID3V1 = b"TAG" + b"title".ljust(125, b"\0")


def ape(footer: bool = True, header: bool = True) -> bytes:
    item = struct.pack("<II", 5, 0) + b"Title\0hello"
    said = struct.pack("<II", 32 + len(item), 1)
    head = b"APETAGEX" + struct.pack("<I", 2000) + said + struct.pack("<I", 0xA0000000) + bytes(8)
    foot = b"APETAGEX" + struct.pack("<I", 2000) + said + struct.pack("<I", 0x80000000 * header) + bytes(8)
    return head * header + item + foot * footer


def flac_total(data: bytes, total: int) -> bytes:
    """With another number of samples: the low 36 bits of bytes 18 to 25."""
    old = int.from_bytes(data[18:26], "big")
    return patched(data, 18, (old >> 36 << 36 | total).to_bytes(8, "big"))


def without_xing(data: bytes) -> bytes:
    """An MP3 without its first frame, which holds no sound but says how many follow."""
    return data[data.index(data[:2], 4) :]


def xing_frames(data: bytes, frames: int) -> bytes:
    place = max(data.find(b"Xing"), data.find(b"Info"))
    return patched(data, place + 8, struct.pack(">I", frames))


def wav(subtype: str = "PCM_16", **samples: float) -> bytes:
    return sound("WAV", subtype, music(**samples))  # type: ignore[arg-type]


def mp3(rate: int = RATE, channels: int = 2) -> bytes:
    return sound("MP3", samples=music(rate=rate, channels=channels), rate=rate)


def mp3_in_wav() -> bytes:
    form = struct.pack("<HHIIHHH", 0x55, 2, RATE, 8000, 1, 0, 0)
    chunks = b"WAVE" + chunk(b"fmt ", form) + chunk(b"data", without_xing(mp3()))
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def of_floats(change: Callable[[np.ndarray], None], channels: int = 2, subtype: str = "FLOAT") -> bytes:
    samples_NC = music(channels=channels)
    change(samples_NC)
    return sound("WAV", subtype, samples_NC)


def cases() -> dict[str, tuple[bytes, Verdict]]:
    """Content and verdict by file name."""
    n = round(SECONDS * RATE)
    made: dict[str, tuple[bytes, Verdict]] = {}

    def add(name: str, data: bytes, verdict: Verdict) -> None:
        assert name not in made
        made[name] = data, verdict

    # WAV: what subtypes there are, what programs state that write into a pipe, and what stands around the sound.
    for subtype in ("PCM_16", "PCM_24", "PCM_32", "PCM_U8", "FLOAT", "DOUBLE", "ULAW", "MS_ADPCM"):
        add(f"wav-{subtype.lower()}.wav", wav(subtype), used())
    add("wav-six-channels.wav", sound("WAVEX", "PCM_16", music(channels=6)), used())
    for size in (0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF):
        add(f"wav-size-{size:x}.wav", sized(wav(), b"data", size), used())
    add("wav-size-0-float.wav", sized(wav("FLOAT"), b"data", 0), used())
    add("wav-size-0-riff-0.wav", sized(sized(wav(), b"data", 0), b"RIFF", 0), used())
    add("wav-riff-0.wav", sized(wav(), b"RIFF", 0), used())
    add("wav-longer.wav", sized(wav(), b"data", 40 * n), cut(SECONDS))
    add("wav-cut.wav", part(wav(), 0.7), cut(0.7 * SECONDS))
    add("wav-cut-in-head.wav", wav()[:38], refused("truncated"))
    add("wav-shorter.wav", sized(wav(), b"data", 4 * RATE), refused("damaged"))
    add("wav-shorter-float.wav", sized(wav("FLOAT"), b"data", 8 * RATE), refused("damaged"))
    add("wav-list-behind.wav", wav() + chunk(b"LIST", b"INFOINAM\4\0\0\0abc\0"), used())
    add("wav-list-before.wav", before_data(wav(), chunk(b"LIST", b"INFOINAM\4\0\0\0abc\0")), used())
    add("wav-odd-chunk.wav", before_data(wav(), chunk(b"junk", bytes(33))), used())
    add("wav-big-chunk-behind.wav", wav() + chunk(b"id3 ", id3(50_000)), used())
    add(
        "wav-odd-unpadded.wav", wav("PCM_U8", channels=1, seconds=SECONDS + 1 / RATE)[:-1] + b"LIST\4\0\0\0INFO", used()
    )
    add("wav-id3v1-behind.wav", wav() + ID3V1, used())
    add("wav-zeros-behind.wav", wav() + bytes(70_000), used())
    add("wav-noise-behind.wav", wav() + np.random.default_rng(0).bytes(70_000), refused("damaged"))
    add("wav-two-sounds.wav", wav() + chunk(b"data", bytes(range(256)) * 300), refused("damaged"))
    add("wav-two-in-one.wav", wav() + wav(), refused("damaged"))
    add("wav-id3-in-front.wav", id3() + wav(), used())
    add("wav-of-mp3.wav", mp3_in_wav(), used(claim=False))
    add("wav-no-samples.wav", wav(seconds=0.0), refused("empty"))
    add("wav-no-sound-chunk.wav", wav()[:36], refused("empty"))
    add("wav-rate-1.wav", patched(wav(), 24, struct.pack("<I", 1)), refused("damaged"))
    add("wav-rate-4e9.wav", patched(wav(), 24, struct.pack("<I", 4_000_000_000)), refused("damaged"))
    add("wav-no-channels.wav", patched(wav(), 22, bytes(2)), refused("damaged"))
    add("rf64.rf64", sound("RF64", "PCM_16"), used())
    add("rf64-cut.wav", part(sound("RF64", "PCM_16"), 0.7), cut(0.7 * SECONDS))
    add("w64.w64", sound("W64", "PCM_16"), used())
    add("w64-cut.w64", part(sound("W64", "PCM_16"), 0.7), cut(0.7 * SECONDS))
    add("called-wave.wave", wav(), used())
    add("called-mp3.mp3", wav(), used())
    add("UPPER CASE.WAV", wav(), used())
    # AIFF, AU, CAF.
    add("aiff.aiff", sound("AIFF", "PCM_16"), used())
    add("aiff-24.aif", sound("AIFF", "PCM_24"), used())
    add("aiff-float.aifc", sound("AIFF", "FLOAT"), used())
    add("aiff-size-0.aiff", sized(sound("AIFF", "PCM_16"), b"SSND", 0, ">I"), used())
    add("aiff-size-ffffffff.aiff", sized(sound("AIFF", "PCM_16"), b"SSND", 0xFFFFFFFF, ">I"), used())
    add("aiff-longer.aiff", sized(sound("AIFF", "PCM_16"), b"SSND", 40 * n, ">I"), cut(SECONDS))
    add("aiff-cut.aiff", part(sound("AIFF", "PCM_16"), 0.7), cut(0.7 * SECONDS))
    add("aiff-shorter.aiff", sized(sound("AIFF", "PCM_16"), b"SSND", 4 * RATE, ">I"), refused("damaged"))
    add("au.au", sound("AU", "PCM_16"), used())
    add("au-unknown.snd", patched(sound("AU", "PCM_16"), 8, b"\xff" * 4), used())
    add("au-size-0.au", patched(sound("AU", "PCM_16"), 8, bytes(4)), used())
    add("au-cut.au", part(sound("AU", "PCM_16"), 0.7), cut(0.7 * SECONDS))
    add("au-shorter.au", patched(sound("AU", "PCM_16"), 8, struct.pack(">I", 4 * RATE)), refused("damaged"))
    add("caf.caf", sound("CAF", "PCM_16"), used())
    add("caf-unknown.caf", sized(sound("CAF", "PCM_16"), b"data", -1, ">q"), used())
    add("caf-cut.caf", part(sound("CAF", "PCM_16"), 0.7), cut(0.7 * SECONDS))
    # FLAC.
    add("flac.flac", sound("FLAC"), used())
    add("flac-24.flac", sound("FLAC", "PCM_24"), used())
    add("flac-piped.flac", flac_total(sound("FLAC"), 0), used())
    add("flac-piped-24.flac", flac_total(sound("FLAC", "PCM_24"), 0), used())
    add("flac-piped-mono.flac", flac_total(sound("FLAC", samples=music(channels=1)), 0), used())
    add("flac-piped-id3.flac", id3() + flac_total(sound("FLAC"), 0), used())
    add("flac-piped-cut.flac", part(flac_total(sound("FLAC"), 0), 0.7), used(0.7 * SECONDS))
    add("flac-longer.flac", flac_total(sound("FLAC"), 10 * n), cut(SECONDS))
    add("flac-largest.flac", flac_total(sound("FLAC"), 2**36 - 1), cut(SECONDS))
    add("flac-shorter.flac", flac_total(sound("FLAC"), n // 5), used(claim=True))
    add("flac-cut.flac", part(sound("FLAC"), 0.7), cut(0.7 * SECONDS))
    add("flac-head-only.flac", sound("FLAC")[:60], refused("damaged"))
    add("flac-id3-in-front.flac", id3() + sound("FLAC"), used())
    add("flac-id3v1-behind.flac", sound("FLAC") + ID3V1, used())
    add("flac-two-in-one.flac", sound("FLAC") + sound("FLAC"), used(2 * SECONDS, claim=True))
    add("flac-two-rates.flac", sound("FLAC") + sound("FLAC", rate=44_100), refused("damaged"))
    # MP3.
    add("mp3.mp3", mp3(), used())
    add("mp3-mono.mp3", mp3(44_100, 1), used())
    add("mp3-no-xing.mp3", without_xing(mp3()), used())
    add("mp3-two-in-one.mp3", mp3() + mp3(), used(2 * SECONDS, claim=True))
    add("mp3-three-no-xing.mp3", b"".join(without_xing(mp3()) for _ in range(3)), used(3 * (SECONDS + 0.056)))
    add("mp3-two-with-tags.mp3", id3() + mp3() + ID3V1 + id3() + mp3() + ID3V1, used(2 * SECONDS, claim=True))
    add("mp3-two-rates.mp3", mp3() + mp3(44_100), refused("damaged"))
    add("mp3-junk-between.mp3", mp3() + bytes(5_000) + mp3(), used(2 * SECONDS, claim=True))
    add("mp3-ape-in-front.mp3", ape() + mp3(), used())
    add("mp3-ape-no-footer.mp3", ape(footer=False) + mp3(), used())
    add("mp3-ape-id3-in-front.mp3", ape() + id3() + mp3(), used())
    add("mp3-ape-behind.mp3", mp3() + ape(), used())
    add("mp3-tags-behind.mp3", mp3() + b"LYRICSBEGIN" + bytes(50) + b"000061LYRICS200" + ape() + ID3V1, used())
    add("mp3-cover.mp3", id3(300_000) + mp3(), used())
    add("mp3-two-id3.mp3", id3() + id3() + mp3(), used())
    add("mp3-id3-longer.mp3", id3(300, 2**27) + mp3(), used())
    add("mp3-cut.mp3", part(mp3(), 0.7), cut(0.7 * SECONDS))
    add("mp3-longer.mp3", xing_frames(mp3(), 10_000), cut(SECONDS))
    add("mp3-called-flac.flac", mp3(), used())
    add("mp2.mp2", ffmpeg("mp2", "mp2"), used())
    # Ogg.
    add("vorbis.ogg", sound("OGG", "VORBIS"), used())
    add("opus.opus", sound("OGG", "OPUS", music(rate=24_000), 24_000), used())
    add("vorbis-called-oga.oga", sound("OGG", "VORBIS"), used())
    add("vorbis-cut.ogg", part(sound("OGG", "VORBIS"), 0.7), cut(0.55 * SECONDS))
    add("opus-cut.opus", part(ffmpeg("ogg", "libopus", 48_000), 0.7), cut(0.7 * SECONDS))
    add("vorbis-two-in-one.ogg", sound("OGG", "VORBIS") + sound("OGG", "VORBIS"), used(2 * SECONDS, claim=True))
    add("vorbis-head-only.ogg", sound("OGG", "VORBIS")[:60], refused("truncated"))
    # What FFmpeg alone reads.
    add("aac.m4a", ffmpeg("mp4", "aac"), used())
    add("aac-fast.mp4", ffmpeg("mp4", "aac", movflags="faststart"), used())
    add("aac-pieces.m4a", ffmpeg("mp4", "aac", movflags="frag_keyframe+empty_moov"), used())
    add("alac.m4a", ffmpeg("mp4", "alac"), used())
    add("aac-cut.m4a", part(ffmpeg("mp4", "aac"), 0.7), refused("truncated"))
    add("aac-fast-cut.m4a", part(ffmpeg("mp4", "aac", movflags="faststart"), 0.7), cut(0.7 * SECONDS))
    add("aac.aac", ffmpeg("adts", "aac"), used())
    add("aac-two-in-one.aac", ffmpeg("adts", "aac") + ffmpeg("adts", "aac"), used(2 * SECONDS))
    add("aac-called-mp3.mp3", ffmpeg("mp4", "aac"), used())
    counted = ffmpeg("mp4", "aac", movflags="faststart")
    place = counted.index(b"stsz") + 8
    add("aac-large-index.m4a", patched(counted, place, struct.pack(">II", 1, 50_000_000)), refused("damaged"))
    add("wma.wma", ffmpeg("asf", "wmav2", 44_100), used())
    add("wma-cut.wma", part(ffmpeg("asf", "wmav2", 44_100), 0.7), cut(0.7 * SECONDS))
    add("opus.webm", ffmpeg("webm", "libopus", 48_000), used())
    add("opus-cut.webm", part(ffmpeg("webm", "libopus", 48_000), 0.7), cut(0.7 * SECONDS))
    add("opus.mka", ffmpeg("matroska", "libopus", 48_000), used())
    add("ac3.ac3", ffmpeg("ac3", "ac3", 44_100), used())
    add("wavpack.wv", ffmpeg("wv", "wavpack"), used())
    # What the samples are like.
    turned = music()
    turned[:, 1] = -turned[:, 0]
    add("antiphase.wav", sound("WAV", "PCM_16", turned), of_its_samples("silent"))
    add("antiphase.flac", sound("FLAC", None, turned * 0.9), of_its_samples("silent"))
    nearly = music()
    nearly[:, 1] = -0.99 * nearly[:, 0]
    add("antiphase-nearly.wav", sound("WAV", "PCM_16", nearly), of_its_samples("silent"))
    six = music(channels=6)
    six[:, 3:] = -six[:, :3]
    add("antiphase-six.wav", sound("WAV", "PCM_16", six), of_its_samples("silent"))
    add("one-side.wav", of_floats(lambda x: x[:, 1].fill(0)), used())
    add("hot.wav", of_floats(lambda x: np.multiply(x, 9, out=x)), used())
    add("hot-mono.wav", of_floats(lambda x: np.multiply(x, 4, out=x), channels=1), used())
    add("hot-double.wav", of_floats(lambda x: np.multiply(x, 20, out=x), subtype="DOUBLE"), used())
    add("clipped.wav", sound("WAV", "PCM_16", np.clip(music(gain=3), -1, 1)), of_its_samples("clipped"))
    add("clipped-float.wav", sound("WAV", "FLOAT", np.clip(music(gain=3), -1, 1)), of_its_samples("clipped"))
    add("clipped.flac", sound("FLAC", None, np.clip(music(gain=3), -1, 1)), of_its_samples("clipped"))
    one_side = music()
    one_side[:, 1] = np.clip(8 * one_side[:, 1], -1, 1)
    add("clipped-one-side.wav", sound("WAV", "PCM_16", one_side), of_its_samples("clipped"))
    add("silent.wav", sound("WAV", "PCM_16", 0 * music()), of_its_samples("silent"))
    add("silent.flac", sound("FLAC", None, np.zeros((n, 1), np.float32)), of_its_samples("silent"))
    add("silent-first.wav", of_floats(lambda x: x[:RATE].fill(0)), of_its_samples("silent", SECONDS - 1))
    add("nan.wav", of_floats(lambda x: x[::1000].fill(np.nan)), of_its_samples("not-finite"))
    add("infinite.wav", of_floats(lambda x: x[::1000].fill(np.inf)), of_its_samples("not-finite"))
    add("integers-as-floats.wav", of_floats(lambda x: np.multiply(x, 32768, out=x)), of_its_samples("damaged"))
    # What is no sound at all.
    add("nothing.wav", b"", refused("empty"))
    add("text.mp3", b"this is not audio " * 500, refused("not-audio"))
    add("page.flac", b"<!DOCTYPE html><html><body>404</body></html>\n" * 50, refused("not-audio"))
    add("noise.mp3", np.random.default_rng(1).bytes(60_000), refused("not-audio"))
    add("noise.m4a", np.random.default_rng(2).bytes(60_000), refused("not-audio"))
    add("zeros.wav", bytes(60_000), refused("not-audio"))
    add("picture.ogg", b"\x89PNG\r\n\x1a\n" + np.random.default_rng(3).bytes(9_000), refused("not-audio"))
    add("list.mp3", b"#EXTM3U\n#EXTINF:5,x\nwav-pcm_16.wav\nhttp://127.0.0.1:9/x.mp3\n", refused("not-audio"))
    add(
        "list.m4a",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:5,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
        refused("not-audio"),
    )
    add("tags-alone.mp3", id3() + ID3V1, refused("empty"))
    add("short.wav", wav(seconds=0.2), Verdict(0.0, frozenset({"too-short"})))
    add(
        "short.m4a",
        ffmpeg("mp4", "aac")[:0] + sound("FLAC", None, music(seconds=0.3)),
        Verdict(0.0, frozenset({"too-short"})),
    )
    return made


def write_all(folder: Path) -> dict[str, Verdict]:
    """Write all cases, each with a caption beside it; verdicts by name."""
    verdicts = {}
    for name, (data, verdict) in cases().items():
        (folder / name).write_bytes(data)
        (folder / f"{name.rpartition('.')[0]}.txt").write_text("calm piano, slow\n")
        verdicts[name] = verdict
    return verdicts
