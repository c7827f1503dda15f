"""What is evaluated: bundles, MusicGen checkpoints and folders of audio, and what lies between a bundle and the music
it learned from: recordings, their true codes, and those codes as the bundle completes them.

B clips, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.conditions.base import Excerpt
from ssmttm.config import Config, EvaluateConfig
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import MusicRequest
from ssmttm.errors import UserError
from ssmttm.evaluation import controls
from ssmttm.evaluation.clips import Clip, read_folder, write_list
from ssmttm.evaluation.controls import Measured
from ssmttm.evaluation.heard import Ears, Heard, Sound, hear, hear_background
from ssmttm.evaluation.prompts import Prompt
from ssmttm.evaluation.published import MusicGen

REFERENCE = "reference"
WARM_UP_S = 1.0
# What a held-out segment is heard as: the recording, its true codes decoded, codebook 0 of them alone, and the codes
# that stage 1 writes, completed as the bundle completes its own: the most that stage 1 could reach.
REAL, CODEC, COARSE, COMPLETED = "real", "codec", "coarse", "completed"
ASKED, OTHERS = "asked", "another's"  # by controls: what is made, beside its own and another segment's
KEPT = (REAL, CODEC, COARSE)  # as files, of the clips that are shown


class MakesMusic(Protocol):
    """Prompts and seeds in, audio out, and files that say what they are."""

    sample_rate: int

    @property
    def model_id(self) -> str: ...

    def generate(self, prompt: str, seconds: float, seed: int) -> Audio: ...

    def save(self, uri: str, audio: Audio, prompt: str, seed: int) -> None: ...


def kind_of(uri: str) -> str:
    """`bundle`, `MusicGen` or `folder of audio`, by what lies there.

    Raises:
        UserError: if nothing does, or a checkpoint of another kind.
    """
    names = storage.list_names(uri)
    if "bundle.json" in names:
        return "bundle"
    if "config.json" in names:
        model_type = storage.read_json(storage.join(uri, "config.json")).get("model_type")
        if model_type != "musicgen":
            raise UserError(f"{uri} is a checkpoint of '{model_type}'; systems are bundles, MusicGen or audio")
        return "MusicGen"
    if not names:
        raise UserError(f"{uri} is empty or missing; systems are bundles, MusicGen checkpoints or folders of audio")
    return "folder of audio"


def systems_of(options: EvaluateConfig) -> dict[str, str]:
    """What is compared, by name.

    Raises:
        UserError: if nothing is, `evaluate.audio` and a system share a name, or a name cannot be a folder's.
    """
    systems = dict(options.systems)
    if options.audio is not None:
        name = last_part(options.audio)
        if name in systems:
            raise UserError(f"evaluate.audio and evaluate.systems.{name} share a name; rename one")
        systems[name] = options.audio
    for name in systems:
        if name == REFERENCE or not name.replace("-", "").replace("_", "").isalnum():
            raise UserError(f"'{name}' cannot name a system; use letters, digits, - and _, and not '{REFERENCE}'")
    if not systems:
        raise UserError("nothing to compare; give evaluate.systems.NAME=URI or evaluate.audio=FOLDER")
    return {name: storage.absolute(uri) for name, uri in systems.items()}


def last_part(uri: str) -> str:
    return uri.rstrip("/").rsplit("/", 1)[-1]


def device_of(settings: Config) -> str:
    return "cuda" if settings.train.use_gpu else "cpu"


def make(system: MakesMusic, prompts: Sequence[Prompt], seconds: float, seed: int) -> Iterator[tuple[Audio, float]]:
    """A clip for each prompt, one after the other as a listener would, and the wall-clock seconds it took; a short one
    before them is not counted. Seeds count up from `seed`."""
    system.generate(prompts[0].text, min(WARM_UP_S, seconds), seed)
    for i, prompt in enumerate(prompts):
        start = time.perf_counter()
        clip = system.generate(prompt.text, seconds, seed + i)
        yield clip, time.perf_counter() - start


def clips_of(name: str, uri: str, prompts: Sequence[Prompt], settings: Config) -> tuple[str, str, list[Clip]]:
    """Kind, title and clips of a system; made and written to a folder of its name unless it is a folder of audio."""
    options, kind = settings.evaluate, kind_of(uri)
    if kind == "folder of audio":
        return kind, last_part(uri), read_folder(uri, {one.id: one.text for one in prompts})
    load: Any = Generator.load if kind == "bundle" else MusicGen
    system: MakesMusic = load(uri, device_of(settings))
    folder, clips = storage.join(options.out, name), []
    made = make(system, prompts, options.seconds, options.seed)
    bar = tqdm(made, desc=system.model_id, total=len(prompts), unit="clip", leave=False, disable=None)
    for i, (prompt, (sound, wall_s)) in enumerate(zip(prompts, bar, strict=True)):
        path = storage.join(folder, f"{i:04d}.flac")
        system.save(path, sound, prompt.text, options.seed + i)
        clips.append(Clip(prompt.id, path, prompt.text, options.seed + i, sound.seconds, wall_s))
    write_list(folder, clips, system.model_id)
    return kind, system.model_id, clips


class Studio:
    """Holds a bundle; each method hears one part of its evaluation, the result small enough to send.

    True codes become sound in windows, exactly as in generation. Files go to `evaluate.out`, named by prompts' ids.
    """

    def __init__(self, settings: Config):
        self._out, self._seconds = settings.evaluate.out, settings.corpus.segment_seconds
        self._device, self._ears = device_of(settings), Ears(closely=False)
        self._generator = Generator.load(settings.evaluate.bundle, self._device)
        self._rate = self._generator.sample_rate

    @cached_property
    def codebooks(self) -> int:
        """Those that stage 1 writes."""
        return self._generator.bundle.lm.config.num_codebooks

    @property
    def controls(self) -> list[str]:
        """Those that stage 1 can be asked by."""
        return [name for name, layer in self._generator.bundle.lm.inputs.named() if layer.channels]

    def title(self) -> tuple[str, int]:
        return self._generator.model_id, self.codebooks

    def training(self, prompts: Sequence[Prompt]) -> Heard:
        """Take statistics of real training segments."""
        return hear_background("training segments", (self._recording(prompt) for prompt in prompts))

    @torch.inference_mode()
    def held_out(self, prompts: Sequence[tuple[int, Prompt]], shown: int) -> dict[str, Heard]:
        """Hear held-out segments, which come with their numbers, as recordings and through their true codes; write the
        audio of those whose number is below `shown`."""
        sounds: dict[str, list[Sound]] = {name: [] for name in (REAL, CODEC, COARSE, COMPLETED)}
        for number, prompt in prompts:
            recording = self._recording(prompt)
            decoded = {REAL: recording, **self._through_codes(prompt, number, recording.samples.shape[1])}
            for name, sound in decoded.items():
                path = storage.join(self._out, f"{prompt.id}-{name}.flac") if number < shown and name in KEPT else ""
                if path:
                    audio.write(path, sound)
                sounds[name].append(
                    Sound(Clip(prompt.id, path, prompt.text), sound, recording if name == CODEC else None)
                )
        return {name: hear(name, of, self._ears) for name, of in sounds.items()}

    def _recording(self, prompt: Prompt) -> Audio:
        assert prompt.recording is not None
        return prompt.recording.read(self._rate)

    def _through_codes(self, prompt: Prompt, seed: int, length: int) -> dict[str, Audio]:
        """What a segment's true codes sound like, cut to `length` samples."""
        assert prompt.codes_KT is not None
        bundle, codec = self._generator.bundle, self._generator.bundle.codec
        codes_BKT = torch.from_numpy(prompt.codes_KT.astype(np.int64))[None].to(self._device)
        coarse_BDT = codec.coarse(codes_BKT[:, 0])
        nothing_BDT = coarse_BDT.new_zeros(1, codec.fine_dim, coarse_BDT.shape[2])
        written = codes_BKT[:, : self.codebooks].unbind(dim=2)
        piece = Piece.of(bundle, MusicRequest(prompt.text, seed=seed), len(written))
        windows = self._generator.renderer.render(iter(written), [piece])
        wavs = {
            CODEC: codec.decode_codes(codes_BKT),
            COARSE: codec.decode(coarse_BDT, nothing_BDT),
            COMPLETED: torch.cat(list(windows), dim=2),
        }
        return {name: Audio(wav_B1N[0, :, :length].cpu().numpy(), self._rate) for name, wav_B1N in wavs.items()}

    def made(self, prompts: Sequence[Prompt], seed: int) -> Heard:
        """Make clips together; each one's share of the time is the same."""
        start, seeds = time.perf_counter(), [seed + i for i in range(len(prompts))]
        clips = self._generator.generate_batch([one.text for one in prompts], self._seconds, seeds)
        share = (time.perf_counter() - start) / len(prompts)
        return self._heard(prompts, seed, ((clip, share) for clip in clips))

    def made_singly(self, prompts: Sequence[Prompt], seed: int) -> Heard:
        return self._heard(prompts, seed, make(self._generator, prompts, self._seconds, seed))

    def asked(self, prompts: Sequence[Prompt], others: Sequence[Prompt], seed: int) -> dict[str, list[Measured]]:
        """Ask for held-out segments' own controls, in words that name neither tempo nor key, and measure what was
        asked: in the recordings, in their true codes completed, in what is made, and in that beside another segment's
        controls. Nothing, if the bundle takes no controls."""
        found: dict[str, list[Measured]] = {name: [] for name in (REAL, COMPLETED, ASKED, OTHERS)}
        if not (known := self.controls):
            return found

        def asked_of(prompt: Prompt, recording: Audio) -> dict[str, Any]:
            assert prompt.recording is not None
            rate = self._generator.bundle.codec.frame_rate
            frames = round(recording.seconds * rate)
            start_s = prompt.recording.start_s
            excerpt = Excerpt({}, recording.samples, recording.sample_rate, start_s, frames, rate)
            return controls.asked_of(known, prompt.score, excerpt)

        for i, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
            recording = self._recording(prompt)
            own, theirs = asked_of(prompt, recording), asked_of(other, self._recording(other))
            words = f"{prompt.tags['genre']} with {prompt.tags['lead']}"
            made = self._generator.generate(words, self._seconds, seed + i, controls=own)
            self._generator.save(storage.join(self._out, f"{prompt.id}-asked.flac"), made, words, seed + i)
            completed = self._through_codes(prompt, seed + i, recording.samples.shape[1])[COMPLETED]
            for name, clip, values in (
                (REAL, recording, own),
                (COMPLETED, completed, own),
                (ASKED, made, own),
                (OTHERS, made, theirs),
            ):
                found[name].append(controls.measured(clip, values))
        return found

    def _heard(self, prompts: Sequence[Prompt], seed: int, made: Iterator[tuple[Audio, float]]) -> Heard:
        def sounds() -> Iterator[Sound]:
            for i, (prompt, (sound, wall_s)) in enumerate(zip(prompts, made, strict=True)):
                path = storage.join(self._out, f"{prompt.id}.flac")
                self._generator.save(path, sound, prompt.text, seed + i)
                yield Sound(Clip(prompt.id, path, prompt.text, seed + i, sound.seconds, wall_s), sound)

        return hear("generated", sounds(), self._ears)

    def made_long(self, prompt: Prompt, seed: int, seconds: float) -> Heard:
        """Make one piece of `seconds` and hear it in segments as long as a generated clip; a rest is left out."""
        start = time.perf_counter()
        piece = self._generator.generate(prompt.text, seconds, seed)
        wall_s = time.perf_counter() - start
        path = storage.join(self._out, f"{prompt.id}.flac")
        self._generator.save(path, piece, prompt.text, seed)
        clip = Clip(prompt.id, path, prompt.text, seed, piece.seconds, wall_s)
        length = round(self._seconds * piece.sample_rate)
        starts = range(0, piece.samples.shape[1] - length + 1, length)
        parts = (Audio(piece.samples[:, first : first + length], piece.sample_rate) for first in starts)
        return hear("long", (Sound(clip, part) for part in parts), self._ears)
