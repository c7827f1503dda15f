"""A few previews of a corpus or token dataset to listen to: drawn by seed, from source audio or else from tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ssmttm import audio
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.codec.store import load_codec
from ssmttm.containers import UnusableAudioError
from ssmttm.errors import UserError
from ssmttm.opener import open_audio
from ssmttm.tokens.check import Entry, Inventory, bar
from ssmttm.tokens.schema import codes_of, open_dataset, read_checked

PREVIEWS = 10
PREVIEW_SECONDS = 10.0
LISTENING_RATE = 32_000  # of MP3's rates: what lies above 16 kHz is not what such a clip is listened to for


@dataclass(frozen=True)
class Preview:
    """sound: mono, at most `PREVIEW_SECONDS` long; None if there is none. note: where it comes from, or why not."""

    entry: Entry
    sound: Audio | None
    note: str


def draw(entries: Sequence[Entry], number: int, seed: int) -> list[Entry]:
    """`number` of the entries, or all if there are fewer, in random order."""
    return [entries[index] for index in np.random.default_rng(seed).permutation(len(entries))[:number]]


def _from_source(inventory: Inventory, entry: Entry) -> Audio:
    """The beginning of a row, or the middle of a track of a corpus: many begin in silence.

    Raises:
        UserError: if the file cannot be decoded.
    """
    try:
        with open_audio(entry.track.audio) as source:
            rate = source.sample_rate
            length = round(PREVIEW_SECONDS * rate)
            begin = max(0, (source.frames - length) // 2)
            if inventory.dataset:
                length = round(min(PREVIEW_SECONDS, entry.track.duration_s) * rate)
                begin = round(entry.start_s * rate)
            samples_NC = source.samples(begin, length)
    except UnusableAudioError as error:
        raise UserError(f"the source file cannot be decoded ({error})") from None
    return Audio(np.ascontiguousarray(samples_NC.T), rate)


@torch.inference_mode()
def _from_tokens(inventory: Inventory, entry: Entry, codec: Codec) -> Audio:
    table = read_checked(open_dataset(inventory.uri).file(entry.shard), ["id", "codes", "frames"])
    row = table.slice(table.column("id").to_pylist().index(entry.track.id), 1).to_pylist()[0]
    codes_KT = codes_of(row)[:, : round(PREVIEW_SECONDS * codec.frame_rate)].astype(np.int64)
    wav_B1N = codec.decode_codes(torch.from_numpy(codes_KT)[None])
    return Audio(wav_B1N[0].numpy(), codec.sample_rate)


def _codec_of(inventory: Inventory) -> Codec:
    """Raises UserError if the dataset's codec is not where it was, or another."""
    reference = inventory.dataset["codec"]
    codec = load_codec(reference["uri"]).eval()
    if codec.fingerprint() != reference["fingerprint"]:
        raise UserError(f"the codec at {reference['uri']} is not the one that made the tokens")
    return codec


def previews(inventory: Inventory, number: int = PREVIEWS, seed: int = 0, progress: bool = True) -> list[Preview]:
    """Draw entries and decode them; an entry that cannot be heard says why."""
    codec: Codec | None = None
    without = "the source file is missing"
    drawn = draw(inventory.entries, number, seed)
    if inventory.dataset and any(entry.track.audio not in inventory.present for entry in drawn):
        try:
            codec = _codec_of(inventory)
        except UserError as error:
            without = f"no audio: the source file is not at hand, and the tokens cannot be decoded ({error})"
    made = []
    for entry in bar(drawn, "previews", "preview", progress):
        sound, note = None, without
        try:
            if entry.track.audio in inventory.present:
                sound, note = _from_source(inventory, entry), "source audio"
            elif codec is not None:
                sound, note = _from_tokens(inventory, entry, codec), "decoded from its tokens"
        except UserError as error:
            note = str(error)
        if sound is not None:
            sound = audio.resample(audio.to_mono(sound), LISTENING_RATE)
        made.append(Preview(entry, sound, note))
    return made
