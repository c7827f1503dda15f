"""The work of an evaluation in parts that can run anywhere: real clips, the codec's and stage 2's ceilings, prompts.

B clips, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

import numpy as np
import torch

from ssmttm import audio, storage
from ssmttm.audio import Audio
from ssmttm.codec.base import Codec
from ssmttm.codec.metrics import logmel_l1
from ssmttm.evaluation.clips import ClipAnalysis, analyse
from ssmttm.evaluation.embeddings import log_mel, statistics_of
from ssmttm.evaluation.frechet import Moments


@dataclass(frozen=True)
class RealClip:
    """A segment of a recording: its file, first second and length in seconds."""

    audio: str
    start_s: float
    seconds: float
    tags: Mapping[str, Any]


@dataclass(frozen=True)
class HeldOut:
    """A validation segment with its number, prompt and true codes, int16 [K, T]."""

    index: int
    prompt: str
    clip: RealClip
    codes_KT: np.ndarray


@dataclass(frozen=True)
class Request:
    """A clip to generate and the name of its file, without extension."""

    prompt: str
    seed: int
    name: str


@dataclass(frozen=True)
class Made:
    """A generated clip: its file, the wall-clock seconds it took, and what it holds."""

    path: str
    wall_s: float
    analysis: ClipAnalysis


@dataclass(frozen=True)
class MadeLong:
    """A long piece: its file, the wall-clock seconds it took, and what each segment of it holds."""

    path: str
    wall_s: float
    segments: list[ClipAnalysis]


@dataclass(frozen=True)
class Listened:
    """Real clips: the statistics of each (what probes read), the log-mel moments of all."""

    statistics: list[np.ndarray]
    moments: Moments


@dataclass(frozen=True)
class Ceiling:
    """A held-out clip as it is and through the codec.

    Attributes:
        real, codec: the recording, and its true codes (all codebooks) decoded.
        completed: its true codebook 0, completed by stage 2 (or the true codebooks that stage 1 writes): what stage 1
            could reach at best.
        logmel_l1: of the two, see `codec.metrics.logmel_l1`.
        paths: files of `real`, `codec` and `coarse` (codebook 0 alone), if they were asked for.
    """

    real: ClipAnalysis
    codec: ClipAnalysis
    completed: ClipAnalysis
    logmel_l1: float
    paths: dict[str, str]


@dataclass(frozen=True)
class Reconstructed:
    """Ceilings of held-out clips, and the log-mel moments of all of them as they are (`real`), from codebook 0 alone
    (`coarse_only`) and as the system completes them (`generated`): codebook 0 by stage 2, or the `codebooks` that its
    stage 1 writes."""

    ceilings: list[Ceiling]
    moments: dict[str, Moments]
    codebooks: int


class Generates(Protocol):
    """What is evaluated: prompts and seeds in, audio out, and files that say what they are."""

    sample_rate: int

    def generate(self, prompt: str, seconds: float, seed: int) -> Audio: ...

    def generate_batch(self, prompts: Sequence[str], seconds: float, seeds: Sequence[int]) -> list[Audio]: ...

    def save(self, uri: str, audio: Audio, prompt: str, seed: int) -> None: ...


def read_clip(clip: RealClip, sample_rate: int) -> np.ndarray:
    """Mono samples float32 [N] of a segment at `sample_rate` (Hz).

    Raises:
        UserError: if the file is missing or cannot be decoded.
    """
    whole = audio.read(clip.audio)
    first = round(clip.start_s * whole.sample_rate)
    part = whole.samples[:, first : first + round(clip.seconds * whole.sample_rate)]
    return audio.resample(audio.to_mono(Audio(part, whole.sample_rate)), sample_rate).samples[0]


class Worker:
    """Holds the models; each method is one kind of task, its results small enough to send.

    Args:
        generator: the system under evaluation.
        codec: its codec.
        complete: what follows stage 1, as the system runs it: true codes int64 [B, K, T] of all codebooks (of which it
            takes those that stage 1 writes), prompts and seeds to audio [B, N].
        out: folder for audio files.
        seconds: length of generated clips.
        device: where the codec is.
        codebooks: those that stage 1 writes.
    """

    def __init__(
        self,
        generator: Generates,
        codec: Codec,
        complete: Callable[[torch.Tensor, list[str], list[int]], torch.Tensor],
        out: str,
        seconds: float,
        device: str = "cpu",
        codebooks: int = 1,
    ):
        self._generator, self._codec, self._complete = generator, codec, complete
        self._out, self._seconds, self._device, self._codebooks = out, seconds, device, codebooks

    def listen(self, clips: Sequence[RealClip]) -> Listened:
        """Take statistics of real clips."""
        rate = self._codec.sample_rate
        frames = [log_mel(read_clip(clip, rate), rate) for clip in clips]
        return Listened([statistics_of(one) for one in frames], reduce(add, map(Moments.of_clip, frames)))

    @torch.inference_mode()
    def reconstruct(self, clips: Sequence[HeldOut], keep: Sequence[int]) -> Reconstructed:
        """Decode the true codes of held-out clips, with and without stage 2; write the audio of those in `keep`."""
        rate = self._codec.sample_rate
        ceilings, moments = [], []
        for held in clips:
            codes_BKT = torch.from_numpy(held.codes_KT.astype(np.int64))[None].to(self._device)
            coarse_BDT = self._codec.coarse(codes_BKT[:, 0])
            nothing_BDT = coarse_BDT.new_zeros(1, self._codec.fine_dim, coarse_BDT.shape[2])
            decoded = {
                "codec": self._codec.decode_codes(codes_BKT)[:, 0],
                "coarse": self._codec.decode(coarse_BDT, nothing_BDT)[:, 0],
                "completed": self._complete(codes_BKT, [held.prompt], [held.index]),
            }
            recording = read_clip(held.clip, rate)
            length = len(recording)
            waves = {"real": recording} | {name: wav_BN[0, :length].cpu().numpy() for name, wav_BN in decoded.items()}
            real, codec, completed = (analyse(waves[name], rate) for name in ("real", "codec", "completed"))
            coarse_moments = Moments.of_clip(log_mel(waves["coarse"], rate))
            paths = {}
            if held.index in keep:
                for name in ("real", "codec", "coarse"):
                    paths[name] = storage.join(self._out, f"held-out-{held.index:03d}-{name}.flac")
                    audio.write(paths[name], Audio(waves[name][None], rate))
            decoded_1N, original_1N = (torch.from_numpy(waves[name])[None] for name in ("codec", "real"))
            difference = logmel_l1(decoded_1N, original_1N, rate)
            ceilings.append(Ceiling(real[0], codec[0], completed[0], difference, paths))
            moments.append((real[1], coarse_moments, completed[1]))
        names = ("real", "coarse_only", "generated")
        sums = {name: reduce(add, (clip[i] for clip in moments)) for i, name in enumerate(names)}
        return Reconstructed(ceilings, sums, self._codebooks)

    def generate(self, requests: Sequence[Request]) -> list[Made]:
        """Make clips together; each one's share of the time is the same."""
        start = time.perf_counter()
        prompts, seeds = [one.prompt for one in requests], [one.seed for one in requests]
        clips = self._generator.generate_batch(prompts, self._seconds, seeds)
        share = (time.perf_counter() - start) / len(requests)
        return [self._keep(request, clip, share) for request, clip in zip(requests, clips, strict=True)]

    def generate_singly(self, requests: Sequence[Request]) -> list[Made]:
        """Make clips one after the other, as a listener would, after one short clip that is not counted."""
        self._generator.generate(requests[0].prompt, 1.0, requests[0].seed)
        results = []
        for request in requests:
            start = time.perf_counter()
            clip = self._generator.generate(request.prompt, self._seconds, request.seed)
            results.append(self._keep(request, clip, time.perf_counter() - start))
        return results

    def generate_long(self, request: Request, seconds: float) -> MadeLong:
        """Make one piece of `seconds` and measure it in segments as long as a generated clip; a rest is left out."""
        start = time.perf_counter()
        piece = self._generator.generate(request.prompt, seconds, request.seed)
        wall_s = time.perf_counter() - start
        path = storage.join(self._out, f"{request.name}.flac")
        self._generator.save(path, piece, request.prompt, request.seed)
        length = round(self._seconds * piece.sample_rate)
        starts = range(0, piece.samples.shape[1] - length + 1, length)
        segments = [analyse(piece.samples[:, first : first + length], piece.sample_rate)[0] for first in starts]
        return MadeLong(path, wall_s, segments)

    def _keep(self, request: Request, clip: Audio, wall_s: float) -> Made:
        path = storage.join(self._out, f"{request.name}.flac")
        self._generator.save(path, clip, request.prompt, request.seed)
        return Made(path, wall_s, analyse(clip.samples, clip.sample_rate)[0])
