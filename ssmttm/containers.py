"""What the bytes of files of sound say of what is in them: tags around it, chunks, atoms, pages, and the lengths that
their heads state. Nothing is decoded here.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ssmttm import storage

Value = TypeVar("Value")
AudioReason = Literal["missing", "unreadable", "empty", "not-audio", "truncated", "damaged"]
MP4_BEGINS = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"moof"})
OGG_TAIL_BYTES = 2**17  # more than the largest page
MOST_ATOMS = 200_000
UNNAMED_BYTES = 4096  # that may follow the last chunk: padding, tags


class UnusableAudioError(Exception):
    """Sound that cannot be used: a short fixed reason, and a line for people."""

    def __init__(self, reason: Any, detail: str):
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Watched:
    """A file as decoders read it through callbacks, in which an exception would be lost and taken for the end of the
    data: it is kept, to be raised afterwards. uri: empty for a stream, which is not asked again."""

    def __init__(self, file: Any, uri: str = ""):
        self._file, self._uri = file, uri
        self.error: Exception | None = None

    def _try(self, action: Callable[[], Value], default: Value) -> Value:
        if self.error is None:
            try:
                return storage.with_retries(action, self._uri)
            except Exception as error:
                self.error = error
        return default

    def read_at(self, place: int, size: int) -> bytes:
        def again() -> bytes:
            self._file.seek(place)
            return self._file.read(size)

        return self._try(again, b"")

    def size(self) -> int:
        return self._try(lambda: self._file.seek(0, os.SEEK_END), 0)

    def check(self) -> None:
        """Raise what storage raised while a decoder was reading."""
        if self.error is not None:
            raise self.error


class View:
    """The bytes `[begin, end)` of a file as a file, some of them replaced. Several may look at one file."""

    def __init__(self, file: Watched, begin: int, end: int, replaced: tuple[int, bytes] | None = None):
        self._file, self._begin, self.size, self._replaced = file, begin, end - begin, replaced
        self._place = 0

    def read(self, size: int = -1) -> bytes:
        size = min(self.size - self._place if size < 0 else size, max(0, self.size - self._place))
        data = self._file.read_at(self._begin + self._place, size) if size else b""
        if self._replaced is not None:
            place, fresh = self._replaced[0] - self._place, self._replaced[1]
            if -len(fresh) < place < len(data):
                whole = bytearray(data)
                for index, byte in enumerate(fresh):
                    if 0 <= place + index < len(whole):
                        whole[place + index] = byte
                data = bytes(whole)
        self._place += len(data)
        return data

    def at(self, place: int, size: int) -> bytes:
        self._place = place
        return self.read(size)

    def again(self) -> View:
        """The same bytes, for another reader."""
        return View(self._file, self._begin, self._begin + self.size, self._replaced)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence])
        return self._place

    def tell(self) -> int:
        return self._place


def xing_frames(view: View) -> tuple[int, int] | None:
    """Frames and bytes of sound by the first frame of an MP3, if that is what it is for."""
    head = view.at(0, 200)
    place = max(head.find(b"Xing"), head.find(b"Info"))
    if place < 0 or len(head) < place + 16 or head[place + 7] & 3 != 3:
        return None
    frames, size = struct.unpack(">II", head[place + 8 : place + 16])
    return frames, size


def xing_fits(view: View) -> bool:
    xing = xing_frames(view)
    return xing is None or abs(xing[1] - view.size) < 0.01 * view.size + 2048


def asf_seconds(head: bytes) -> float | None:
    """Seconds by the file properties of an ASF file; None for a broadcast, which does not know them."""
    place = head.find(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    if place < 0 or len(head) < place + 92:
        return None
    play, _, preroll, flags = struct.unpack("<QQQI", head[place + 64 : place + 92])
    return None if flags & 1 else max(0.0, play / 1e7 - preroll / 1e3)


def atoms_cut(view: View, head: bytes) -> bool:
    """Whether this is an MP4 file of which less is there than its outermost atoms say.

    Raises:
        UnusableAudioError: if it names more pieces of sound than it has bytes: FFmpeg would reserve memory for them.
    """
    if head[4:8] not in MP4_BEGINS:
        return False
    inner, furthest, seen = [(0, view.size)], 0, 0
    while inner:
        place, end = inner.pop()
        while place + 8 <= end:
            size, name = int.from_bytes(view.at(place, 4), "big"), view.at(place + 4, 4)
            body = view.at(place + 8, 12)
            if size == 1:
                size = int.from_bytes(body[:8], "big")
            seen += 1
            count = 0
            if name == b"stsz":
                count = int.from_bytes(body[8:12], "big") * max(1, int.from_bytes(body[4:8], "big"))
            elif name == b"trun":
                count = int.from_bytes(body[4:8], "big")
            if count > view.size or seen > MOST_ATOMS:
                raise UnusableAudioError("damaged", "its index names more sound than the file can hold")
            if size < 8:  # to the end, or nothing that can be walked
                furthest = max(furthest, view.size)
                break
            if name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"moof", b"traf"):
                inner.append((place + 8, min(end, place + size)))
            place += size
        furthest = max(furthest, place)
    return furthest > view.size


def leading_tag(view: View, begin: int) -> int:
    """Bytes of the ID3 or APE tag at a place; 0 if there is none. Of one that says it is longer than the file, no more
    than its head."""
    head, left = view.at(begin, 32), view.size - begin
    if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 128:
        length = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        length += 10 if head[5] & 0x10 else 0
    elif head[:8] == b"APETAGEX" and len(head) == 32:
        length = 32 + int.from_bytes(head[12:16], "little")
        if view.at(begin + length - 32, 8) != b"APETAGEX" and not head[23] & 0x40:
            length -= 32  # a foot that is counted, but is not there
    else:
        return 0
    return length if length <= left else min(10, left)


def without_tags(view: View) -> tuple[int, int]:
    """Where sound begins and ends between ID3, APE and Lyrics3 tags."""
    begin, end = 0, view.size
    while length := leading_tag(view, begin):
        begin += length
    while end - begin >= 32:
        tail = view.at(end - 32, 32)
        length = 0
        if end - begin >= 128 and view.at(end - 128, 3) == b"TAG":
            length = 128
        elif tail[:8] == b"APETAGEX":
            length = int.from_bytes(tail[12:16], "little") + (32 if tail[23] & 0x80 else 0)
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            length = int(tail[-15:-9]) + 15
        if not length or end - length < begin:
            break
        end -= length
    return begin, end


@dataclass(frozen=True)
class Chunks:
    """Sound in a file of chunks: its bytes that are there, and those that are stated (None: unknown, as programs write
    that stream into a pipe). replaced: place and bytes of a size that decoders can work with."""

    there: int
    stated: int | None
    is_cut: bool
    replaced: tuple[int, bytes] | None

    def stated_s(self, seconds: float) -> float | None:
        """Seconds by the header, of sound that has so many."""
        return seconds * self.stated / self.there if self.stated is not None and self.there else None


@dataclass(frozen=True)
class _Form:
    """How chunks are laid out. first: place of the first one. sound: its name, whose head takes `skipped` bytes more.
    size: of a chunk, as in `struct`, its own head counted or not. align: what the next one's place is a multiple of."""

    first: int
    sound: bytes
    size: str
    align: int
    skipped: int = 0
    counts_head: bool = False

    @property
    def head(self) -> int:
        return len(self.sound) + struct.calcsize(self.size)


_W64 = bytes.fromhex("f3acd3118cd100c04f8edb8a")  # how all names of Sony Wave64 end, but its first


def chunk_form(head: bytes) -> _Form | None:
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return _Form(12, b"data", "<I", 2)
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _Form(12, b"data", ">I", 2)
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return _Form(12, b"SSND", ">I", 2, skipped=8)
    if head[:4] == b"caff":
        return _Form(8, b"data", ">q", 1, skipped=4)
    if head[:4] == b"riff" and head[28:40] == _W64:
        return _Form(40, b"data" + _W64, "<Q", 8, counts_head=True)
    return None


def walk_chunks(view: View) -> Chunks | None:
    """The sound of a file of chunks, measured by what is there; None for other files.

    Raises:
        UnusableAudioError: if it holds none, or bytes that no chunk names.
    """
    head = view.at(0, 40)
    if head[:4] in (b".snd", b"dns."):
        return _sun(view, head)
    form = chunk_form(head)
    if form is None:
        return None
    big = 0  # the size of the sound in a file beyond 4 GiB, which has it in a chunk of its own
    place, found = form.first, None
    while place + form.head <= view.size:
        name, size = _chunk(view, place, form)
        body = place + form.head
        if name == b"ds64" and head[:4] in (b"RF64", b"BW64"):
            big = int.from_bytes(view.at(body + 8, 8), "little")
        if found is not None and not _is_chunk(view, place, form):
            break
        if name[:4] in (b"RIFF", b"RF64", b"RIFX", b"riff", b"FORM", b"caff"):
            raise UnusableAudioError("damaged", "it holds several files of sound, one behind the other; split it")
        if name == form.sound:
            if found is not None:
                raise UnusableAudioError("damaged", "it holds two chunks of sound; write it again with one")
            if size == 0xFFFFFFFF and big:
                size = big
            rest = view.size - body
            nothing = size <= form.skipped and rest > form.skipped and not _is_chunk(view, body + max(size, 0), form)
            unknown = size < 0 or nothing or (form.size[1] == "I" and size >= 0x7FFF0000 and size > rest)
            if unknown or size > rest:
                replaced = None
                if nothing:
                    fresh = min(rest, 0x7FFFFFFF) + (form.head if form.counts_head else 0)
                    replaced = (place + len(form.sound), struct.pack(form.size, fresh))
                return Chunks(
                    max(0, rest - form.skipped), None if unknown else size - form.skipped, not unknown, replaced
                )
            if size <= form.skipped:
                raise UnusableAudioError("empty", "no samples")
            found = Chunks(size - form.skipped, size - form.skipped, False, None)
        if size < 0:
            raise UnusableAudioError("damaged", "it states a size below zero")
        place = body + size
        if place % form.align:
            aligned = place + form.align - place % form.align
            # Some programs leave the padding out.
            place = place if _is_chunk(view, place, form) and not _is_chunk(view, aligned, form) else aligned
    if found is None:
        if place == view.size:
            raise UnusableAudioError("empty", "no samples")
        raise UnusableAudioError("truncated", "it ends before its sound begins")
    _nothing_unnamed(view, place, found.there)
    return found


def _chunk(view: View, place: int, form: _Form) -> tuple[bytes, int]:
    head = view.at(place, form.head)
    (size,) = struct.unpack(form.size, head[len(form.sound) :])
    return head[: len(form.sound)], size - form.head if form.counts_head else size


def _is_chunk(view: View, place: int, form: _Form) -> bool:
    """Whether a chunk may begin here: a name of letters, and a size that the file has room for; or the end."""
    if place >= view.size:
        return True
    if place + form.head > view.size:
        return False
    name, size = _chunk(view, place, form)
    return all(32 <= byte < 127 for byte in name[:4]) and 0 <= size <= view.size - place - form.head


def _sun(view: View, head: bytes) -> Chunks:
    """The sound of an AU file, which has one head and nothing after its sound."""
    order: Literal["big", "little"] = "big" if head[:4] == b".snd" else "little"
    body, stated = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
    there = view.size - body
    if there <= 0:
        raise UnusableAudioError("truncated" if stated else "empty", "no samples")
    unknown = stated == 0xFFFFFFFF or not stated
    if not unknown and stated < there:
        _nothing_unnamed(view, body + stated, stated)
        there = stated
    replaced = (8, b"\xff" * 4) if not stated else None
    return Chunks(there, None if unknown else stated, not unknown and stated > there, replaced)


def _nothing_unnamed(view: View, place: int, sound: int) -> None:
    """Raises UnusableAudioError if much follows that no header names: sound, as likely as not."""
    rest = view.size - place
    if rest <= UNNAMED_BYTES:
        return
    while place < view.size:
        if view.at(place, 1 << 20).strip(b"\0"):
            raise UnusableAudioError(
                "damaged",
                f"its header names {sound:,} bytes of sound, {rest:,} follow that it does not name; write it again",
            )
        place += 1 << 20


def ogg_without_end(view: View) -> bool:
    """Whether this is an Ogg stream whose last page is not marked as such, or not whole (RFC 3533, section 6):
    libsndfile takes it for a shorter file."""
    if view.at(0, 4) != b"OggS":
        return False
    tail = view.at(max(0, view.size - OGG_TAIL_BYTES), OGG_TAIL_BYTES)
    last = tail.rfind(b"OggS")
    page = tail[last:] if last >= 0 else b""
    segments = page[26] if len(page) > 26 else 0
    whole = len(page) >= 27 + segments + sum(page[27 : 27 + segments])
    return not (len(page) > 26 and whole and page[5] & 4)
