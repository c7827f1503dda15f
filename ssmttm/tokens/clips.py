"""A few clips of a corpus or token dataset to listen to: drawn by seed, from the source audio or else from tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
import torch

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.errors import UserError
from ssmttm.tokens.listing import Entry, Listing, bar
from ssmttm.tokens.parts import read_columns

CLIPS = 10
CLIP_SECONDS = 10.0
LISTENING_RATE = 32_000  # of MP3's rates: what lies above 16 kHz is not what such a clip is listened to for


@dataclass(frozen=True)
class Clip:
    """sound: mono, at most `CLIP_SECONDS` long; None if there is none. note: where it comes from, or why not."""

    entry: Entry
    sound: Audio | None
    note: str


def draw(entries: Sequence[Entry], number: int, seed: int) -> list[Entry]:
    """`number` of the entries, or all if there are fewer, in random order."""
    return [entries[index] for index in np.random.default_rng(seed).permutation(len(entries))[:number]]


def _from_source(listing: Listing, entry: Entry) -> Audio:
    """The beginning of a row, or the middle of a track of a corpus: many begin in silence.

    Raises:
        UserError: if the file cannot be decoded.
    """
    fs, path = storage.filesystem(entry.track.audio)
    try:
        with fs.open(path, "rb") as file, soundfile.SoundFile(file) as sound:
            rate = sound.samplerate
            length = round(min(CLIP_SECONDS, entry.track.duration_s if listing.dataset else CLIP_SECONDS) * rate)
            begin = round(entry.start_s * rate) if listing.dataset else max(0, (sound.frames - length) // 2)
            sound.seek(min(begin, sound.frames))
            samples_NC = sound.read(length, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise UserError(f"the source file cannot be decoded ({error})") from None
    return Audio(np.ascontiguousarray(samples_NC.T), rate)


@torch.inference_mode()
def _from_tokens(listing: Listing, entry: Entry, codec: Codec) -> Audio:
    table = read_columns(storage.join(listing.uri, entry.shard), ["id", "codes", "frames"])
    row = table.slice(table.column("id").to_pylist().index(entry.track.id), 1).to_pylist()[0]
    codes_KT = np.frombuffer(row["codes"], np.int16).reshape(-1, row["frames"])
    codes_KT = codes_KT[:, : round(CLIP_SECONDS * codec.frame_rate)].astype(np.int64)
    wav_B1N = codec.decode_codes(torch.from_numpy(codes_KT)[None])
    return Audio(wav_B1N[0].numpy(), codec.sample_rate)


def _codec_of(listing: Listing) -> Codec:
    """Raises UserError if the dataset's codec is not where it was, or another."""
    reference = listing.dataset["codec"]
    codec = load_codec(reference["uri"]).eval()
    if codec.fingerprint() != reference["fingerprint"]:
        raise UserError(f"the codec at {reference['uri']} is not the one that made the tokens")
    return codec


def clips(listing: Listing, number: int = CLIPS, seed: int = 0, progress: bool = True) -> list[Clip]:
    """Draw entries and decode them; an entry that cannot be heard says why."""
    codec: Codec | None = None
    without = "the source file is missing"
    drawn = draw(listing.entries, number, seed)
    if listing.dataset and any(entry.track.audio not in listing.present for entry in drawn):
        try:
            codec = _codec_of(listing)
        except UserError as error:
            without = f"no audio: the source file is not at hand, and the tokens cannot be decoded ({error})"
    made = []
    for entry in bar(drawn, "clips", "clip", progress):
        sound, note = None, without
        try:
            if entry.track.audio in listing.present:
                sound, note = _from_source(listing, entry), "source audio"
            elif codec is not None:
                sound, note = _from_tokens(listing, entry, codec), "decoded from its tokens"
        except UserError as error:
            note = str(error)
        if sound is not None:
            sound = audio.resample(audio.to_mono(sound), LISTENING_RATE)
        made.append(Clip(entry, sound, note))
    return made
