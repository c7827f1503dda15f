"""A request from its beginning to its end: what is known before anything is made, given audio that it continues
included, and what becomes of audio that was rendered.

Shapes: B clips, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ssmttm import audio as audio_io
from ssmttm.audio import Audio
from ssmttm.bundle.load import Bundle
from ssmttm.codec.base import Codec
from ssmttm.engine.piece import Finished, Piece, controls_of
from ssmttm.engine.request import MusicRequest
from ssmttm.engine.windows import WindowRenderer
from ssmttm.errors import UserError

JOIN_SECONDS = 0.1
KNEE, CEILING = 0.85, 0.98


def soft_limit(samples: Tensor) -> Tensor:
    """Bend samples beyond ±0.85 towards ±0.98 (tanh): continuous in value and slope, never clipped.

    It looks at one sample at a time, so streams need no second pass over the piece.
    """
    room = CEILING - KNEE
    beyond = samples.abs() - KNEE
    bent = samples.sign() * (KNEE + room * torch.tanh(beyond.clamp(min=0) / room))
    return torch.where(beyond > 0, bent, samples)


class Take:
    """A request as the engine works at it.

    Attributes:
        piece: what stage 1 and the windows must know of it, with the filled request.
        samples: of the result in all, given audio included.

    Raises:
        UserError: if the request is out of bounds, or its audio not as `audio.checked` takes it, too short or, with
            what follows, too long.
    """

    def __init__(self, bundle: Bundle, renderer: WindowRenderer, request: MusicRequest):
        codec, longest = bundle.codec, bundle.config.generation.max_seconds
        request = request.filled(bundle.config.generation)
        assert request.seconds is not None
        fresh = max(round(request.seconds * codec.sample_rate), 1)
        before, overlap, primer_KT, history = 0, 0, None, None
        self._given: GivenAudio | None = None
        if request.audio is not None:
            controls_of(
                bundle, request, -(-fresh // codec.hop_length)
            )  # what is refused is so before the audio is read
            audio = audio_io.checked(request.audio)
            if audio.seconds + request.seconds > longest:
                raise UserError(f"the continued piece would be over the limit of {longest:g} seconds")
            given = self._given = GivenAudio(codec, bundle.lm.config.num_codebooks, renderer, audio)
            fresh += given.rest
            before, overlap, primer_KT, history = given.known, given.overlap, given.primer_KT, given.history
        self.piece = Piece.of(bundle, request, -(-fresh // codec.hop_length), primer_KT, history)
        self.samples, self._left = before + fresh, overlap + fresh

    def add(self, audio_B1N: Tensor) -> list[np.ndarray]:
        """What one more piece of rendered audio adds to the result: float32 [B, N] on the CPU, loud samples bent,
        surplus ones cut, given audio before them. The rendering begins with the history's."""
        audio_BN = soft_limit(audio_B1N[:, 0, : self._left].float()).cpu()
        self._left -= audio_BN.shape[1]
        parts = [audio_BN.numpy()] if self._given is None else self._given.join(audio_BN)
        return [part for part in parts if part.shape[1]]


class GivenAudio:
    """Audio that a piece continues: as codes for stage 1, as latents for what follows it, and joined with what they
    add. One clip.

    Args:
        codec: the bundle's.
        codebooks: how many stage 1 writes.
        renderer: on the codec's device.
        audio: of any rate and number of channels.

    Attributes:
        known: samples that stay as they are, in whole frames. rest: those after them, which are made again.
        primer_KT: codes that stage 1 continues.
        history: the finished frames.
        overlap: samples of the history, which are rendered again.

    Raises:
        UserError: if the audio is shorter than a code frame.
    """

    def __init__(self, codec: Codec, codebooks: int, renderer: WindowRenderer, audio: Audio):
        self._given_1N = audio_io.to_mono(audio_io.resample(audio, codec.sample_rate)).samples
        hop, samples = codec.hop_length, self._given_1N.shape[1]
        self.known, self.rest = samples // hop * hop, samples % hop
        if self.known == 0:
            raise UserError(f"audio of {audio.seconds:.2f} s is too short to be continued; give at least a second")
        with torch.inference_mode():
            wav_11N = torch.from_numpy(self._given_1N[:, : self.known])[None].to(renderer.device)
            codes_1KT, fine_1DT = codec.encode_with_latents(wav_11N)
        self.primer_KT = codes_1KT[0, :codebooks].cpu().numpy()
        self.history = Finished(codes_1KT[:, 0], fine_1DT).last(renderer.context)
        self.overlap = self.history.frames * hop
        self._join = min(round(JOIN_SECONDS * codec.sample_rate), self.overlap)
        self._held_1N: Tensor | None = torch.empty(1, 0)  # the history's audio; None once it is joined

    def join(self, rendered_1N: Tensor) -> list[np.ndarray]:
        """What one more piece of rendered audio adds: the given audio, whose last 0.1 s fade into the model's rendering
        of them, then the new samples.

        Args:
            rendered_1N: on the CPU, of any size; all together, `overlap` samples of the history, then the new ones.
        """
        if self._held_1N is None:
            return [rendered_1N.numpy()]
        held_1N = torch.cat([self._held_1N, rendered_1N], dim=1)
        if held_1N.shape[1] < self.overlap:
            self._held_1N = held_1N
            return []
        self._held_1N = None
        # The two sides of the join differ in phase, so their powers are what must add up to one.
        angle = torch.linspace(0, math.pi / 2, self._join)
        begin = self.known - self._join
        ending_1N = torch.from_numpy(self._given_1N[:, begin : self.known])
        again_1N = held_1N[:, self.overlap - self._join : self.overlap]
        crossed_1N = soft_limit(ending_1N * angle.cos() + again_1N * angle.sin())
        return [self._given_1N[:, :begin], crossed_1N.numpy(), held_1N[:, self.overlap :].numpy()]
