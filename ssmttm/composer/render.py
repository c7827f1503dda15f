"""Playing an arrangement: stems through a General MIDI soundfont, balanced against the lead, treated, in a room, at one
loudness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ssmttm.audio import Audio, normalise_loudness
from ssmttm.composer.arrange import Arrangement, Note, Part
from ssmttm.composer.effects import Effects, apply_to_stem, compress, limit, sounding_level
from ssmttm.composer.fonts import SoundFont
from ssmttm.composer.genres import Mix
from ssmttm.errors import MissingExtraError

if TYPE_CHECKING:
    import tinysoundfont

SAMPLE_RATE = 24_000
LOUDNESS = -16.0  # LUFS
PEAK = 0.95
LEAD_LEVEL = 6.5  # dB above the level that a genre's mix refers to
FADE_S = 0.05
LEAD_IN_S = 1.0  # rendered before an excerpt, so that it begins with what rings from before
DRUM_CHANNEL = 9
VOICES = 128
ROLES = ("lead", "chords", "bass", "drums")


class Player:
    """A soundfont held in memory. Each stem starts from silence, so its samples do not depend on what was played
    before."""

    def __init__(self, soundfont: SoundFont):
        try:
            import tinysoundfont
        except ImportError:
            raise MissingExtraError("tinysoundfont", "demo") from None
        self.synth: tinysoundfont.Synth = tinysoundfont.Synth(gain=-6.0, samplerate=SAMPLE_RATE)
        self.font = self.synth.sfload(soundfont.path, max_voices=VOICES)

    def play(self, parts: Sequence[Part], samples: int) -> np.ndarray:
        """Render parts together, mono float32 [samples]; events fall on their exact sample."""
        self.synth.sounds_off()
        self.synth.generate_simple(2400)  # voices cut off fade within 10 ms
        events = []
        channel = 0
        for part in parts:
            is_drums = part.role == "drums"
            used = DRUM_CHANNEL if is_drums else channel
            self.synth.program_select(used, self.font, 128 if is_drums else 0, part.program, is_drums)
            for note in part.notes:
                start, end = round(note.start * SAMPLE_RATE), round((note.start + note.duration) * SAMPLE_RATE)
                events.append((start, 1, used, note.pitch, note.velocity))
                events.append((max(end, start + 1), 0, used, note.pitch, 0))  # 0: ends come before beginnings
            channel += 2 if channel == DRUM_CHANNEL - 1 else 1
        buffer = memoryview(bytearray(samples * 8))  # stereo float32
        position = 0
        for at, is_start, used, pitch, velocity in sorted(events):
            if at >= samples:
                break
            if at > position:
                self.synth.generate_simple(at - position, buffer[position * 8 : at * 8])
                position = at
            if is_start:
                self.synth.noteon(used, pitch, velocity)
            else:
                self.synth.noteoff(used, pitch)
        self.synth.generate_simple(samples - position, buffer[position * 8 :])
        stereo = np.frombuffer(buffer, dtype=np.float32).reshape(samples, 2)
        return (stereo[:, 0] + stereo[:, 1]) * np.float32(0.5)


@lru_cache(maxsize=16)
def room(decay_s: float) -> np.ndarray:
    """Impulse response of a room: decaying noise, unit energy, float32. The highs are damped as air and walls do."""
    length = int(decay_s * SAMPLE_RATE)
    noise = np.random.default_rng(0).standard_normal(length)
    smooth = np.convolve(noise, [0.25, 0.5, 0.25], mode="same")
    response = smooth * np.exp(-6.9 * np.arange(length) / length)  # -60 dB at the end
    response[: int(0.012 * SAMPLE_RATE)] = 0.0  # the first reflection arrives after the direct sound
    return (response / np.sqrt(np.square(response).sum())).astype(np.float32)


def _within(parts: Sequence[Part], start: float, seconds: float) -> list[Part]:
    """What of parts sounds in a window, its beginning at 0. Notes that began before begin with it, but for drums'."""
    end = start + seconds
    found = []
    for part in parts:
        notes = []
        for note in part.notes:
            late = max(0.0, start - note.start)
            if note.start < end and late < note.duration and not (late and part.role == "drums"):
                notes.append(Note(max(note.start - start, 0.0), note.duration - late, note.pitch, note.velocity))
        if notes:
            found.append(Part(part.role, part.program, tuple(notes)))
    return found


def render(
    player: Player, piece: Arrangement, mix: Mix, effects: Effects, start: float = 0.0, seconds: float | None = None
) -> Audio:
    """Render, balance, treat and normalise a piece, or `seconds` of it from `start` on: mono float32 [1, N] at 24 kHz.

    Of an excerpt no more is rendered than a second before it. Stems are levelled by measurement, since the programs of
    a soundfont differ by 20 dB and more; a stem with no note in the excerpt is left out.

    Raises:
        RuntimeError: if the result is silent or clipped, or a stem stays silent.
    """
    from scipy.signal import oaconvolve

    seconds = piece.seconds - start if seconds is None else seconds
    begin = max(0.0, start - LEAD_IN_S)
    first = round((start - begin) * SAMPLE_RATE)
    wanted = round(seconds * SAMPLE_RATE)
    samples = first + wanted
    decibels = {"lead": LEAD_LEVEL, "chords": mix.chords, "bass": mix.bass, "drums": mix.drums}
    playing = {part.role for part in _within(piece.parts, start, seconds - 0.1)}
    parts = _within(piece.parts, begin, samples / SAMPLE_RATE)
    stems = {}
    for role in ROLES:
        if role not in playing:
            continue
        stem = player.play([part for part in parts if part.role == role], samples)
        level = sounding_level(stem)
        if level == 0.0:
            raise RuntimeError(f"the {role} stem is silent: the soundfont lacks one of its programs")
        stem = stem * np.float32(0.1 * 10 ** (decibels[role] / 20) / level)
        stems[role] = apply_to_stem(stem, role, effects, SAMPLE_RATE)
    dynamics = _gain(piece, begin, samples)
    pitched = sum((stems[role] for role in ("lead", "chords") if role in stems), np.zeros(samples, np.float32))
    send = dynamics * (pitched + np.float32(0.3) * stems.get("drums", np.float32(0.0)))
    dry = dynamics * sum(stems.values(), np.zeros(samples, np.float32))
    wet = oaconvolve(send, room(mix.reverb_s))[:samples]
    mixed = dry + np.float32(mix.reverb) * wet.astype(np.float32)
    if effects.compression > 1:
        mixed = compress(mixed, effects.compression)
    mixed = mixed[first:]
    fade = min(round(FADE_S * SAMPLE_RATE), wanted)
    mixed[wanted - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    loud = normalise_loudness(Audio(mixed[None], SAMPLE_RATE), LOUDNESS, peak=np.inf)
    whole = Audio(limit(loud.samples[0], PEAK)[None], SAMPLE_RATE)
    peak, rms = float(np.abs(whole.samples).max()), float(np.sqrt(np.square(whole.samples).mean()))
    if not (0.05 < peak < 1.0 and rms > 0.005):
        raise RuntimeError(f"rendering failed: peak {peak:.3f}, RMS {rms:.4f}")
    return whole


def _gain(piece: Arrangement, begin: float, samples: int) -> np.ndarray:
    """The dynamics of a piece as a gain for each sample from `begin` on."""
    times, levels = np.array(piece.levels).T
    at = np.arange(0, samples + 240, 240)
    gains = 10 ** (np.interp(begin + at / SAMPLE_RATE, times, levels) / 20)
    return np.interp(np.arange(samples), at, gains).astype(np.float32)
