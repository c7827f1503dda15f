"""The product: a prompt becomes audio. `stream` makes it piece by piece; everything else gathers what it yields.

Shapes: B clips, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ssmttm import storage
from ssmttm.audio import Audio
from ssmttm.errors import UserError
from ssmttm.generation import files
from ssmttm.generation.bundle import Bundle, load_bundle, shipped_bundle
from ssmttm.generation.continuation import Continuation
from ssmttm.generation.engine import Decoder
from ssmttm.generation.fine import Finished, Piece
from ssmttm.generation.limiter import finish
from ssmttm.generation.render import Renderer
from ssmttm.generation.request import Settings, check_prompt, check_seed, resolve
from ssmttm.generation.rereading import Rereading
from ssmttm.model.linear import PRECISIONS
from ssmttm.model.text import TextBatch, collate_text
from ssmttm.threads import iterate_with_threads, torch_threads

logger = logging.getLogger(__name__)


class Generator:
    """A bundle at work. Safe to share between threads: it keeps no state of a request. On a CPU it takes the
    bundle's number of threads (`generation.threads`), so that a seed gives the same bytes on any number of cores."""

    def __init__(self, bundle: Bundle):
        self.bundle, self.config = bundle, bundle.config.generation
        self.sample_rate, self.frame_rate = bundle.codec.sample_rate, bundle.codec.frame_rate
        self.renderer = Renderer(bundle.completer, bundle.codec, self.config)
        self._device = next(bundle.lm.parameters()).device
        self._tokenizer_lock = threading.Lock()  # tokenizers refuse calls from two threads at once

    @classmethod
    def load(cls, uri: str | None = None, device: str | None = None, precision: str = "fp32") -> Generator:
        """Load a bundle.

        Args:
            uri: its folder or URI; the one that comes with the package when left out.
            device: CUDA by default where there is one.
            precision: of the language model's large matrices: fp32, bf16, or int8 with one scale per output. Decoding
                one clip takes as long as reading them, so fewer bits are faster; clips of one seed differ.

        Raises:
            UserError: if it is missing, incomplete or damaged, or the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision!r}; give one of: {', '.join(PRECISIONS)}")
        bundle = load_bundle(uri or shipped_bundle(), device)
        if precision != "fp32":
            bundle.lm.narrow(precision)
        return cls(bundle)

    @torch.inference_mode()
    def compile(self) -> bool:
        """Compile the decoding of single clips, guided and not, and say whether that worked; otherwise (there is no
        C++ compiler, for one) decoding goes on as it is, with a warning. Takes half a minute the first time, later
        less. Compiled and uncompiled clips of one seed differ."""
        if self._device.type == "cuda":  # there, each clip's step is a CUDA graph anyway
            return True
        lm, null = self.bundle.lm, self._read(["-"]).as_null()
        lm.compile_steps()
        try:
            with torch_threads(self.config.threads):
                for text in (null, TextBatch.cat(null, null)):
                    _, state = lm.prefill(text)
                    for _ in range(3):  # what changes from step to step is noticed at the second
                        step_BK = torch.zeros(len(text.null_B), lm.config.num_codebooks, dtype=torch.long)
                        _, state = lm.step(step_BK, state)
        except Exception as error:  # whatever a compiler may raise
            lm.compile_steps(False)
            logger.warning("decoding stays uncompiled: %s", " ".join(str(error).split())[:200])
            return False
        return True

    @property
    def model_id(self) -> str:
        return self.bundle.model_id

    def stream(
        self,
        prompt: str,
        seconds: float = 10.0,
        seed: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        steps: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[Audio]:
        """Yield consecutive mono pieces of one clip as they are made; memory does not grow with its length.

        Args:
            prompt: what the music should be like.
            seconds: length of the whole clip.
            seed: 0 to 2^63 - 1; None draws one (`sampling.draw_seed()` gives one that you can keep).
            guidance, temperature, top_k, top_p: of stage 1, see `Sampling`; None takes the bundle's default.
            steps: sampling steps of stage 2; None takes the bundle's default. Refused where there is no stage 2.

        Raises:
            UserError: at once, if anything is out of bounds.
        """
        settings = resolve(self.config, seconds, guidance, temperature, top_k, steps, top_p)
        text = self._read([prompt])
        pieces = self._render(text, [check_seed(seed)], settings, self.samples_in(seconds))
        return (Audio(piece_BN.numpy(), self.sample_rate) for piece_BN in pieces)

    def generate(
        self,
        prompt: str,
        seconds: float = 10.0,
        seed: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        steps: int | None = None,
        top_p: float | None = None,
    ) -> Audio:
        """One clip: the concatenation of `stream`, whose arguments and errors it shares."""
        pieces = self.stream(prompt, seconds, seed, guidance, temperature, top_k, steps, top_p)
        return Audio(np.concatenate([piece.samples for piece in pieces], axis=1), self.sample_rate)

    def generate_batch(
        self,
        prompts: Sequence[str],
        seconds: float = 10.0,
        seeds: Sequence[int | None] | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        steps: int | None = None,
        top_p: float | None = None,
    ) -> list[Audio]:
        """One clip per prompt, made together. Each is what `generate` gives with its seed, up to float rounding.

        Raises:
            UserError: as `stream`, and if the numbers of prompts and seeds differ.
        """
        if isinstance(prompts, str):
            raise TypeError("generate_batch takes a list of prompts, not one string")
        wanted = [None] * len(prompts) if seeds is None else list(seeds)
        if len(wanted) != len(prompts):
            raise UserError(f"{len(prompts)} prompts came with {len(wanted)} seeds; give one seed per prompt")
        if not prompts:
            return []
        settings = resolve(self.config, seconds, guidance, temperature, top_k, steps, top_p)
        text = self._read(prompts)
        pieces = list(self._render(text, [check_seed(seed) for seed in wanted], settings, self.samples_in(seconds)))
        return [Audio(samples[None], self.sample_rate) for samples in torch.cat(pieces, dim=1).numpy()]

    def extend(
        self,
        audio: Audio,
        prompt: str,
        seconds: float = 10.0,
        seed: int | None = None,
        guidance: float | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        steps: int | None = None,
        top_p: float | None = None,
    ) -> Audio:
        """The given audio (mono, at the model's rate) followed by `seconds` of music that continues it.

        The last 0.1 s of the given audio fade into the model's rendering of them; all before stays as it is.

        Raises:
            UserError: as `stream`, and if the audio is shorter than a code frame, or the whole over the limit.
        """
        settings = resolve(self.config, seconds, guidance, temperature, top_k, steps, top_p)
        text = self._read([prompt])
        codebooks, limit = self.bundle.lm.config.num_codebooks, self.config.max_seconds
        with torch_threads(self.config.threads):
            given = Continuation(self.bundle.codec, codebooks, self.renderer, audio, seconds, limit)
        rendered = self._render(text, [check_seed(seed)], settings, given.fresh, given.primer_BKT, given.history)
        return Audio(np.concatenate(list(given.join(rendered)), axis=1), self.sample_rate)

    def to_bytes(self, audio: Audio, extension: str, prompt: str, seed: int) -> bytes:
        """An audio file (wav, flac, ogg or mp3) that says what it is: AI-generated, by which model, from what."""
        return files.encode(audio, extension, files.provenance(self.model_id, prompt, seed))

    def save(self, uri: str, audio: Audio, prompt: str, seed: int) -> None:
        """Write `to_bytes` to a file whose format follows from its extension.

        Raises:
            UserError: for an unknown extension.
        """
        storage.write_bytes(uri, self.to_bytes(audio, uri.rsplit(".", 1)[-1].lower(), prompt, seed))

    def read(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """Token states [S, D] of each prompt; for threads that share the text encoder.

        Raises:
            UserError: if a prompt is empty or too long.
        """
        for prompt in prompts:
            check_prompt(prompt, self.config)
        with self._tokenizer_lock:
            return self.bundle.text_encoder.encode(list(prompts))

    def samples_in(self, seconds: float) -> int:
        return max(round(seconds * self.sample_rate), 1)

    def _read(self, prompts: Sequence[str]) -> TextBatch:
        return collate_text(self.read(prompts))

    def _render(
        self,
        text: TextBatch,
        seeds: Sequence[int],
        settings: Settings,
        samples: int,
        primer_BKT: Tensor | None = None,
        history: Finished | None = None,
    ) -> Iterator[Tensor]:
        """Yield audio [B, N] on the CPU: that of the history, if any, then `samples` new ones.

        Raises:
            UserError: at once, if the whole is longer than the model was made for.
        """
        frames = -(-samples // self.bundle.codec.hop_length)
        known = 0 if primer_BKT is None else primer_BKT.shape[2]
        rereading = Rereading.of(self.config)
        self.bundle.lm.check_length(rereading.longest_read(known + frames))
        decoder = Decoder(self.bundle.lm, text, seeds, settings.sampling, rereading)
        codes = decoder.frames(frames, primer_BKT)
        piece = Piece(text, seeds, settings.steps, self.config.stage2_guidance)
        audio = self.renderer.render(codes, frames, piece, history, known)
        kept = samples + (0 if history is None else history.frames * self.bundle.codec.hop_length)
        return iterate_with_threads(finish(audio, kept), self.config.threads)
