"""The one way to open sound: by path, URI or stream, with one verdict, and with memory that does not grow with its
length. Training, looking through a corpus, evaluation and uploads all come in here.

What a header says of its length is a claim. Chunks (WAV, AIFF, ...) are walked and measured by the bytes that are
there; of compressed sound all packets are counted, without decoding them. libsndfile decodes what it finds as long as
that; everything else, and what libsndfile does not know (AAC, WMA, ...), FFmpeg does. Names and extensions decide
nothing.

Shapes: C channels, N samples.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import numpy as np
import soundfile

from ssmttm import storage
from ssmttm.containers import (
    MP4_BEGINS,
    Chunks,
    UnusableAudioError,
    View,
    Watched,
    asf_seconds,
    atoms_cut,
    chunk_form,
    leading_tag,
    ogg_without_end,
    walk_chunks,
    without_tags,
    xing_fits,
    xing_frames,
)

# What people keep music in, and what is read here. What a file holds is decided by its bytes.
AUDIO_EXTENSIONS = frozenset(
    {"wav", "wave", "bwf", "w64", "rf64", "aif", "aiff", "aifc", "au", "snd", "caf", "flac", "fla", "wv"}
    | {"mp3", "mp2", "mp1", "mpga", "ogg", "oga", "opus", "spx", "m4a", "m4b", "mp4", "aac", "adts", "wma", "asf"}
    | {"webm", "weba", "mka", "3gp", "amr", "ac3", "eac3"}
)
# Sound, or film with sound, of kinds that are not read here.
UNREAD_EXTENSIONS = frozenset(
    {"ape", "tta", "tak", "mpc", "mp+", "shn", "ofr", "dsf", "dff", "dts", "thd", "mlp", "ra", "rm", "m4p", "aa", "aax"}
    | {"mid", "midi", "kar", "xm", "s3m", "sd2", "vox", "gsm", "voc"}
    | {"mov", "m4v", "mkv", "avi", "mpg", "mpeg", "wmv", "flv", "ogv", "m2ts"}
)
# FFmpeg's readers and decoders that may be used. None of these follows names or addresses inside a file; those that
# reserve memory by what a header says (Monkey's Audio, TTA, Musepack) are left out.
_NAMES = "aac,ac3,aiff,amr,asf,au,caf,eac3,flac,matroska,webm,mp3,ogg,w64,wav,wv"
_MP4_NAMES = "mov,mp4,m4a,3gp,3g2,mj2"
_BARE = frozenset({"aac", "ac3", "eac3", "mp3"})  # frames of sound and nothing around them
LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 2_000, 768_000, 64
BLOCK_SAMPLES = 2**20  # of all channels, decoded at a time
LENGTH_TOLERANCE_S = 0.25  # between a header and what is there: padding of codecs, rounding
# Remote files up to this size are fetched in one request; bigger ones in blocks, as they are decoded.
WHOLE_FILE_BYTES = 64 * 2**20
REMOTE_BLOCK_BYTES = 8 * 2**20
UNKNOWN_FRAMES = 2**40
KEPT_BYTES = 8 * 2**20  # of decoded sound, for a reader that goes back a little


class _Decoder(Protocol):
    """frames: samples of each channel, by the header."""

    sample_rate: int
    channels: int
    frames: int

    def read(self, begin: int, count: int) -> Iterator[np.ndarray]: ...

    def close(self) -> None: ...


class _Sndfile:
    """libsndfile.

    Raises:
        soundfile.LibsndfileError: if it does not know what this is.
    """

    def __init__(self, view: View):
        self._file = soundfile.SoundFile(view.again())
        self.sample_rate, self.channels, self.frames = self._file.samplerate, self._file.channels, self._file.frames

    def read(self, begin: int, count: int) -> Iterator[np.ndarray]:
        try:
            if self._file.tell() != begin:
                self._file.seek(begin)
            while count > 0:
                block_NC = self._file.read(min(count, BLOCK_SAMPLES // self.channels), dtype="float32", always_2d=True)
                if not len(block_NC):
                    return
                count -= len(block_NC)
                yield block_NC
        except soundfile.LibsndfileError as error:
            raise UnusableAudioError("truncated", _one_line(error.error_string)) from None

    def close(self) -> None:
        self._file.close()


class _Ffmpeg:
    """FFmpeg, through PyAV: always from the beginning, as only so every sample has its place.

    Raises:
        UnusableAudioError: if it finds no sound that it can decode.
    """

    def __init__(self, view: View):
        self._view = view.again()
        self.frames = 0
        self._restart()
        self.sample_rate = self._stream.codec_context.sample_rate

    def prepare(self) -> None:
        """Learn from the first samples what the others are like.

        Raises:
            UnusableAudioError: if there are none.
        """
        self.close()
        self._restart()
        try:
            first_NC = next(self._blocks, None)
        except UnusableAudioError:
            self.close()
            raise
        if first_NC is None:
            self.close()
            raise UnusableAudioError("not-audio", "no sound could be decoded")
        self._kept.append(first_NC)
        self.channels = first_NC.shape[1]

    def _restart(self) -> None:
        import av

        # An MP4 file's index is only read after `atoms_cut` has looked at it.
        names = _MP4_NAMES if self._view.at(4, 4) in MP4_BEGINS else _NAMES
        self._view.seek(0)
        try:
            self._container = av.open(
                self._view,
                mode="r",
                metadata_errors="replace",
                options={"format_whitelist": names, "protocol_whitelist": "none"},
                buffer_size=1 << 16,
            )
        except (av.error.FFmpegError, ValueError):  # which say no more than that it is invalid
            raise UnusableAudioError("not-audio", "it is of no format of sound that is read") from None
        if not self._container.streams.audio:
            self.close()
            raise UnusableAudioError("not-audio", "it holds no sound")
        self._stream = self._container.streams.best("audio") or self._container.streams.audio[0]
        if self._stream.codec_context is None:  # encrypted, or of a codec that FFmpeg does not know
            self.close()
            raise UnusableAudioError("not-audio", "its sound is of a kind that cannot be decoded")
        self._kept: list[np.ndarray] = []
        self._start = 0  # place of the first sample kept
        self._broken: list[tuple[int, int]] = []  # places that could not be decoded, and are silent
        self._blocks = self._decoded()
        self._refused: UnusableAudioError | None = None  # why there are no more of them

    @property
    def name(self) -> str:
        """The format, by FFmpeg's first name for it."""
        return self._container.format.name.split(",")[0]

    @property
    def stated_s(self) -> float | None:
        """Seconds by the header; None where it says nothing, or not of the sound alone."""
        if self.name == "mp3":
            xing = xing_frames(self._view)
            rate = self.sample_rate
            return None if xing is None else xing[0] * (1152 if rate >= 32_000 else 576) / rate
        if self.name in ("mov", "ogg", "flac") and self._stream.duration is not None:
            return float(self._stream.duration * self._stream.time_base)
        if self.name == "asf":  # FFmpeg looks at the last packet instead
            return asf_seconds(self._view.at(0, 1 << 16))
        if self.name in ("matroska", "wv") and len(self._container.streams) == 1 and self._container.duration:
            return self._container.duration / 1e6
        return None

    def packets(self, limit_s: float) -> float | None:
        """Seconds of sound in all packets, from the beginning, until there are more than `limit_s`; None if not all
        say how long they are.

        Raises:
            UnusableAudioError: if most of the file is something else.
        """
        import av

        seconds, self.covered, are_known = 0.0, 0, True
        try:
            for packet in self._container.demux(self._stream):
                if packet.size:
                    self.covered += packet.size
                    if packet.duration is None or packet.time_base is None:
                        are_known = False
                    else:  # of what is cut off at the end, the last one's is negative, and wraps around
                        duration = packet.duration - 2**32 if packet.duration >= 2**31 else packet.duration
                        seconds += float(duration * packet.time_base)
                    if seconds > limit_s:
                        return seconds
        except av.error.FFmpegError:
            pass  # the end of what can be read
        if self.name in _BARE and self.covered < self._view.size / 2:
            self.close()
            raise UnusableAudioError(
                "damaged" if self.covered else "not-audio",
                f"only {self.covered:,} of {self._view.size:,} bytes are sound",
            )
        return seconds if are_known else None

    def _decoded(self) -> Iterator[np.ndarray]:
        """Blocks float32 [N, C] to the end.

        Raises:
            UnusableAudioError: where sample rate or channels change.
        """
        import av

        rate = channels = place = size = lost = 0
        parts: list[np.ndarray] = []
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                packet = None
            try:
                frames = [] if packet is None else packet.decode()
            except av.error.FFmpegError:
                frames = []
                if rate and packet.size and packet.duration and packet.time_base:
                    lost += round(float(packet.duration * packet.time_base) * rate)
            for frame in frames:
                samples_NC = _samples(frame)
                if not rate:
                    rate = self.sample_rate = frame.sample_rate
                    channels = samples_NC.shape[1]
                elif (frame.sample_rate, samples_NC.shape[1]) != (rate, channels):
                    raise UnusableAudioError(
                        "damaged",
                        f"at {place / rate:.2f} s it goes on with {samples_NC.shape[1]} channels at "
                        f"{frame.sample_rate} Hz, before with {channels} at {rate} Hz; split it there",
                    )
                if lost:  # between what could be decoded, so that all else keeps its place
                    self._broken.append((place, place + lost))
                    samples_NC, lost = np.concatenate([np.zeros((lost, channels), np.float32), samples_NC]), 0
                parts.append(samples_NC)
                place, size = place + len(samples_NC), size + len(samples_NC)
            if parts and (packet is None or size >= rate):
                yield np.concatenate(parts)
                parts, size = [], 0
            if packet is None:
                return

    def count(self, limit_s: float) -> int:
        """Samples of each channel, by decoding them all, or until there are more than `limit_s`."""
        self.close()
        self._restart()
        return _count(self._blocks, limit_s * self.sample_rate)

    def read(self, begin: int, count: int) -> Iterator[np.ndarray]:
        end, place = begin + count, begin
        if begin < self._start:
            self.close()
            self._restart()
        while place < end:
            here = self._start
            for block_NC in list(self._kept):
                if here <= place < here + len(block_NC):
                    taken_NC = block_NC[place - here : end - here]
                    self._check(place, place + len(taken_NC))
                    place += len(taken_NC)
                    yield taken_NC
                here += len(block_NC)
            if place < end:
                if self._refused is not None:
                    raise self._refused
                try:
                    fresh_NC = next(self._blocks, None)
                except UnusableAudioError as refused:
                    self._refused = refused
                    raise
                if fresh_NC is None:
                    return
                self._kept.append(fresh_NC)
                while sum(block_NC.nbytes for block_NC in self._kept[:-1]) > KEPT_BYTES:
                    self._start += len(self._kept.pop(0))

    def _check(self, begin: int, end: int) -> None:
        for first, last in self._broken:
            if first < end and last > begin:
                raise UnusableAudioError("damaged", f"cannot be decoded at {first / self.sample_rate:.2f} s")

    def tags(self) -> dict[str, str]:
        return {**self._stream.metadata, **self._container.metadata}

    def close(self) -> None:
        self._container.close()


_SCALES = {"u8": 128.0, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


def _samples(frame: Any) -> np.ndarray:
    """An FFmpeg frame as float32 [N, C] in [-1, 1] (floats may go beyond)."""
    values = frame.to_ndarray()
    samples_NC = values.T if frame.format.is_planar else values.reshape(frame.samples, -1)
    scale = _SCALES.get(frame.format.name.removesuffix("p"))
    if scale is not None:
        offset = 128 if values.dtype == np.uint8 else 0
        samples_NC = (samples_NC.astype(np.float64) - offset) / scale
    return np.ascontiguousarray(samples_NC, dtype=np.float32)


@dataclass
class AudioSource:
    """Opened sound.

    Attributes:
        sample_rate: in Hz. channels: their number.
        frames: samples of each channel that are there.
        stated_s: seconds by the file's own header, None if it says nothing.
        is_cut: it ends before its own header or last page says.
    """

    sample_rate: int
    channels: int
    frames: int
    stated_s: float | None
    is_cut: bool
    _decoder: _Decoder
    _file: Watched

    @property
    def seconds(self) -> float:
        return self.frames / self.sample_rate

    @property
    def claim(self) -> str:
        """What is wrong with the length that the file states, if anything."""
        if self.is_cut and (self.stated_s is None or self.stated_s - self.seconds <= LENGTH_TOLERANCE_S):
            return f"it breaks off at {self.seconds:.2f} s"
        if self.stated_s is None or abs(self.stated_s - self.seconds) <= LENGTH_TOLERANCE_S:
            return ""
        return f"its header says {self.stated_s:.2f} s, {self.seconds:.2f} s are there"

    def read(self, begin: int, count: int) -> Iterator[np.ndarray]:
        """Blocks float32 [N, C] of the samples from `begin`, fewer than `count` where the sound ends.

        Raises:
            UnusableAudioError: if they cannot be decoded.
            UserError: if the storage fails.
        """
        count = min(count, self.frames - begin)  # libsndfile cannot seek beyond the end
        if count <= 0:
            return
        try:
            for block_NC in self._decoder.read(begin, count):
                self._file.check()
                yield block_NC
        except UnusableAudioError:
            self._file.check()
            raise

    def samples(self, begin: int, count: int) -> np.ndarray:
        """`read` in one piece, float32 [N, C]."""
        return np.concatenate([np.zeros((0, self.channels), np.float32), *self.read(begin, count)])


@contextmanager
def open_audio(uri: str) -> Iterator[AudioSource]:
    """Open a file of sound.

    Raises:
        UnusableAudioError: if it is missing, empty, no sound, or holds less than can be made sense of.
        UserError: if the storage fails, which is no property of the file.
    """
    with _opened(uri) as raw, open_stream(raw, uri) as source:
        yield source


def _opened(uri: str) -> BinaryIO:
    """A file for reading.

    Raises:
        UnusableAudioError, UserError: as `open_audio`.
    """
    fs, path = storage.filesystem(uri)
    try:
        info = storage.with_retries(lambda: fs.info(path), uri)
        if info["type"] == "directory":
            raise UnusableAudioError("unreadable", "is a folder")
        if info["type"] != "file":
            raise UnusableAudioError("unreadable", "is no file")  # a pipe or device: reading might never end
        if not storage.is_remote(uri):
            return open(path, "rb")
        if info["size"] <= WHOLE_FILE_BYTES:
            return io.BytesIO(storage.read_bytes(uri))
        return fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise UnusableAudioError("missing", "no such file") from None
    except PermissionError as error:
        raise UnusableAudioError("unreadable", str(error)) from None


@contextmanager
def open_stream(file: BinaryIO, uri: str = "", limit_s: float = math.inf) -> Iterator[AudioSource]:
    """Open sound in a binary file that can seek, as `open_audio` does.

    Args:
        uri: names the file where its storage fails; on remote storage it is then asked again.
        limit_s: seconds beyond which nobody wants to know how long it is: then it is at least longer than that.

    Raises:
        UnusableAudioError, UserError: as `open_audio`.
    """
    watched = Watched(file, uri)
    try:
        source = _open(watched, limit_s)
    except Exception:  # of a decoder that was given less than there is, for one
        watched.check()
        raise
    with closing(source._decoder):
        watched.check()
        yield source


def _open(file: Watched, limit_s: float) -> AudioSource:
    size = file.size()
    if not size:
        raise UnusableAudioError("empty", "0 bytes")
    begin, end = without_tags(View(file, 0, size))
    if begin == end:
        raise UnusableAudioError("empty", "nothing but tags")
    view = View(file, begin, end)
    chunks = walk_chunks(view)
    if chunks is not None and chunks.replaced is not None:
        view = View(file, begin, end, chunks.replaced)
    found = _measured(view, chunks, file, limit_s)
    if not (LOWEST_RATE <= found.sample_rate <= HIGHEST_RATE and 1 <= found.channels <= MOST_CHANNELS):
        found._decoder.close()
        raise UnusableAudioError(
            "damaged", f"it states {found.channels} channels at {found.sample_rate} Hz, which is no music"
        )
    if found.frames <= 0:
        found._decoder.close()
        raise UnusableAudioError("truncated" if found.is_cut else "empty", "no samples")
    return found


def _measured(view: View, chunks: Chunks | None, file: Watched, limit_s: float) -> AudioSource:
    """Choose the decoder, by what is there."""
    head = view.at(0, 12)
    cut = ogg_without_end(view) or atoms_cut(view, head) or (chunks is not None and chunks.is_cut)
    is_known = chunks is not None or head[:4] in (b"fLaC", b"OggS") or head[4:8] in MP4_BEGINS
    if chunks is not None:
        plain = _sndfile(view)
        if plain is not None:
            stated_s = chunks.stated_s(plain.frames / plain.sample_rate)
            return AudioSource(plain.sample_rate, plain.channels, plain.frames, stated_s, cut, plain, file)
    ffmpeg = seconds = None
    try:
        ffmpeg = _Ffmpeg(view)
        seconds = ffmpeg.packets(limit_s)
        refused = None
    except UnusableAudioError as error:
        refused = error
    # libsndfile believes an MP3's head, and complains on the terminal of all that does not fit to it.
    is_clean_mp3 = ffmpeg is not None and ffmpeg.name == "mp3" and ffmpeg.covered > view.size - 2048 and xing_fits(view)
    sndfile = _sndfile(view) if is_clean_mp3 or head[:4] in (b"fLaC", b"OggS") else None
    if sndfile is not None:
        rate, length_s = sndfile.sample_rate, sndfile.frames / sndfile.sample_rate
        # Without a head that says so, libsndfile guesses an MP3's length.
        stated_s = ffmpeg.stated_s if is_clean_mp3 else length_s if sndfile.frames < UNKNOWN_FRAMES else None
        if ffmpeg is None:
            frames = _count(sndfile.read(0, sndfile.frames), limit_s * rate)
            return AudioSource(rate, sndfile.channels, frames, stated_s, cut, sndfile, file)
        if seconds is not None and rate == ffmpeg.sample_rate and abs(length_s - seconds) <= LENGTH_TOLERANCE_S:
            ffmpeg.close()
            return AudioSource(rate, sndfile.channels, sndfile.frames, stated_s, cut, sndfile, file)
        sndfile.close()
        # A reader of headers and one of packets that disagree: all is decoded once, to count.
        seconds = None if seconds is None or seconds <= limit_s else seconds
    elif ffmpeg is not None:
        stated_s = ffmpeg.stated_s
        if ffmpeg.name == "mp3" and seconds is not None and seconds <= limit_s:
            seconds = None  # it is not of one piece
    if refused is None:
        try:
            frames = ffmpeg.count(limit_s) if seconds is None else round(seconds * ffmpeg.sample_rate)
            ffmpeg.prepare()
        except UnusableAudioError as error:
            ffmpeg.close()
            refused = error
    if refused is not None:
        if refused.reason == "not-audio" and (cut or is_known):
            refused = UnusableAudioError(
                "truncated" if cut else "damaged", "it begins as sound does, but none could be read"
            )
        raise refused
    if chunks is not None:
        stated_s = chunks.stated_s(frames / ffmpeg.sample_rate)
    else:
        cut = cut or (stated_s is not None and stated_s > frames / ffmpeg.sample_rate + LENGTH_TOLERANCE_S)
    return AudioSource(ffmpeg.sample_rate, ffmpeg.channels, frames, stated_s, cut, ffmpeg, file)


def _count(blocks: Iterator[np.ndarray], limit: float) -> int:
    """Samples of each channel, until there are more than `limit`."""
    total = 0
    for block_NC in blocks:
        total += len(block_NC)
        if total > limit:
            break
    return total


def _sndfile(view: View) -> _Sndfile | None:
    """libsndfile's view of a file; None if it knows no sound in it."""
    try:
        found = _Sndfile(view)
    except soundfile.LibsndfileError:
        return None
    if found.frames > 0:
        return found
    found.close()
    return None


def read_tags(uri: str) -> dict[str, str]:
    """What a file says of itself: `title`, `artist`, `genre`, `license`, `copyright`, ..., lower case; nothing if it
    cannot be opened.

    Raises:
        UserError: if the storage fails.
    """
    try:
        with _opened(uri) as raw:
            watched = Watched(raw, uri)
            view = View(watched, 0, watched.size())
            begin = 0
            while view.at(begin, 8) == b"APETAGEX":  # FFmpeg finds no ID3 tag behind it
                begin += leading_tag(view, begin) or view.size
            try:
                found = _tags(View(watched, begin, view.size))
            except UnusableAudioError:
                found = _tags(View(watched, *without_tags(view)))
            watched.check()
    except UnusableAudioError:
        return {}
    return {name.lower(): value for name, value in found.items()}


def _tags(view: View) -> dict[str, str]:
    head = view.at(0, 40)
    if chunk_form(head) is not None or head[:4] in (b"fLaC", b"OggS", b".snd"):
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(view.again()) as file:
            return file.copy_metadata()
    atoms_cut(view, head)
    with closing(_Ffmpeg(view)) as decoder:
        return decoder.tags()


def looks_like_sound(uri: str) -> bool:
    """Whether a file begins as files of sound do, whatever it is called; False if it cannot be read."""
    try:
        with _opened(uri) as raw:
            head = raw.read(40)
    except UnusableAudioError:
        return False
    return (
        chunk_form(head) is not None
        or head[:4] in (b".snd", b"fLaC", b"OggS", b"wvpk", b"MAC ", b"TTA1", b"MPCK", b"\x1aE\xdf\xa3", b"0&\xb2u")
        or head[:3] == b"ID3"
        or head[:8] == b"APETAGEX"
        or head[4:8] == b"ftyp"
        or head[:2] in (b"\xff\xfb", b"\xff\xfa", b"\xff\xf3", b"\xff\xf2", b"\xff\xe3", b"\xff\xf1", b"\xff\xf9")
    )


def _one_line(text: Any) -> str:
    return " ".join(str(text).split()) or "not a format that is known"
