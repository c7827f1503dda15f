"""Playing an arrangement: stems through a General MIDI soundfont, balanced against the lead, in a room, at one
loudness."""

from __future__ import annotations

import glob
import importlib.util
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ssmttm.audio import Audio, normalise_loudness
from ssmttm.composer.arrange import Part
from ssmttm.composer.genres import Mix
from ssmttm.errors import MissingExtraError, UserError

if TYPE_CHECKING:
    import tinysoundfont

SAMPLE_RATE = 24_000
LOUDNESS = -16.0  # LUFS
LEAD_LEVEL = 6.5  # dB above the level that a genre's mix refers to
FADE_S = 0.05
DRUM_CHANNEL = 9
VOICES = 128
BLOCK = 240  # 10 ms: grid on which levels are measured

ENVIRONMENT_VARIABLE = "SSMTTM_SOUNDFONT"
SYSTEM_FOLDERS = ("/usr/share/sounds/sf2/*.sf2", "/usr/share/sounds/sf3/*.sf3")

# Licences as their distributors state them (Debian's copyright files, the fonts' own read-me files).
KNOWN = {
    "TimGM6mb": "TimGM6mb by Tim Brechbill, GNU GPL version 2",
    "FluidR3_GM": "FluidR3 GM by Frank Wen, MIT licence",
    "MuseScore_General": "MuseScore General by S. Christian Collins, MIT licence",
}


@dataclass(frozen=True)
class SoundFont:
    """`name` is the file's base name without extension; `licence` a sentence for notices."""

    path: str
    name: str

    @property
    def licence(self) -> str:
        for name, text in KNOWN.items():
            if self.name.startswith(name):
                return text
        return f"{self.name}, see the file's own licence"


def find_soundfont() -> SoundFont:
    """The file named by `SSMTTM_SOUNDFONT`, else one of the system's, else the one that pretty_midi carries.

    Raises:
        UserError: if the variable names no file, or there is no soundfont at all.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not os.path.isfile(named):
            raise UserError(f"{ENVIRONMENT_VARIABLE}={named} is not a file; point it at a .sf2 or .sf3 soundfont")
        return _describe(named)
    for pattern in SYSTEM_FOLDERS:
        if found := sorted(glob.glob(pattern)):
            return _describe(found[0])
    package = importlib.util.find_spec("pretty_midi")  # found, not imported: only its data file is wanted
    for folder in (package.submodule_search_locations or []) if package else []:
        if found := sorted(glob.glob(os.path.join(folder, "*.sf2"))):
            return _describe(found[0])
    raise UserError(
        f"no General MIDI soundfont found; set {ENVIRONMENT_VARIABLE} to a .sf2 file or pip install 'ssmttm[demo]'"
    )


def _describe(path: str) -> SoundFont:
    return SoundFont(path, os.path.splitext(os.path.basename(path))[0])


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

    def play(self, parts: list[Part], samples: int) -> np.ndarray:
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


def sounding_level(stem: np.ndarray) -> float:
    """RMS over the louder half of the blocks in which a stem sounds at all; 0 for silence."""
    blocks = stem[: len(stem) // BLOCK * BLOCK].reshape(-1, BLOCK)
    power = np.sort(np.square(blocks, dtype=np.float64).mean(axis=1))
    power = power[power > 1e-9]
    return float(np.sqrt(power[len(power) // 2 :].mean())) if len(power) else 0.0


@lru_cache(maxsize=16)
def room(decay_s: float) -> np.ndarray:
    """Impulse response of a room: decaying noise, unit energy, float32. The highs are damped as air and walls do."""
    length = int(decay_s * SAMPLE_RATE)
    noise = np.random.default_rng(0).standard_normal(length)
    smooth = np.convolve(noise, [0.25, 0.5, 0.25], mode="same")
    response = smooth * np.exp(-6.9 * np.arange(length) / length)  # -60 dB at the end
    response[: int(0.012 * SAMPLE_RATE)] = 0.0  # the first reflection arrives after the direct sound
    return (response / np.sqrt(np.square(response).sum())).astype(np.float32)


def render(player: Player, parts: list[Part], mix: Mix, seconds: float) -> Audio:
    """Render, balance and normalise a piece: mono float32 [1, N] at 24 kHz.

    Stems are levelled by measurement, since the programs of a soundfont differ by 20 dB and more.

    Raises:
        RuntimeError: if the result is silent or clipped, or a stem stays silent.
    """
    from scipy.signal import oaconvolve

    samples = round(seconds * SAMPLE_RATE)
    stems = {}
    for role in ("lead", "chords", "bass", "drums"):
        chosen = [part for part in parts if part.role == role]
        if any(note.start < seconds - 0.1 for part in chosen for note in part.notes):
            stems[role] = player.play(chosen, samples)
    decibels = {"lead": LEAD_LEVEL, "chords": mix.chords, "bass": mix.bass, "drums": mix.drums}
    for role, stem in stems.items():
        level = sounding_level(stem)
        if level == 0.0:
            raise RuntimeError(f"the {role} stem is silent: the soundfont lacks one of its programs")
        stems[role] = stem * np.float32(0.1 * 10 ** (decibels[role] / 20) / level)
    pitched = sum((stems[role] for role in ("lead", "chords") if role in stems), np.zeros(samples, np.float32))
    send = pitched + np.float32(0.3) * stems.get("drums", np.float32(0.0))
    dry = sum(stems.values(), np.zeros(samples, np.float32))
    wet = oaconvolve(send, room(mix.reverb_s))[:samples]
    mixed = dry + np.float32(mix.reverb) * wet.astype(np.float32)
    fade = min(round(FADE_S * SAMPLE_RATE), samples)
    mixed[samples - fade :] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    piece = normalise_loudness(Audio(mixed[None], SAMPLE_RATE), LOUDNESS)
    peak, rms = float(np.abs(piece.samples).max()), float(np.sqrt(np.square(piece.samples).mean()))
    if not (0.05 < peak < 1.0 and rms > 0.005):
        raise RuntimeError(f"rendering failed: peak {peak:.3f}, RMS {rms:.4f}")
    return piece
