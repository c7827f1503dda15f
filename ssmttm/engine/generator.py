"""The product: a prompt becomes audio. `stream` makes it piece by piece; everything else gathers what it yields.

Shapes: B clips, K codebooks, T frames, N samples.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ssmttm import storage
from ssmttm.audio import Audio, extension_of
from ssmttm.bundle.load import Bundle, load_bundle, shipped_bundle
from ssmttm.engine import files
from ssmttm.engine.continuation import Take
from ssmttm.engine.request import BOUNDS, MusicRequest
from ssmttm.engine.slot_engine import CodeStream, EngineMetrics, SlotEngine
from ssmttm.engine.slots import Rereading, SlotBatch
from ssmttm.engine.windows import Rendering, WindowPool, WindowRenderer
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads
from ssmttm.model.linear import PRECISIONS
from ssmttm.model.slots import FixedRows, GrowingRows


class ClipStream:
    """A clip in the making: an iterator over its consecutive mono pieces.

    In a generator with slots it raises what `CodeStream` raises where the clip ends early, and what nobody iterates
    over any more is cancelled.

    request: what it is made from, with the bundle's defaults filled in and the seed that was drawn if none was given.
    """

    def __init__(self, request: MusicRequest, pieces: Iterator[Audio], codes: CodeStream | None):
        self.request, self._pieces, self._codes = request, pieces, codes

    def __iter__(self) -> ClipStream:
        return self

    def __next__(self) -> Audio:
        return next(self._pieces)

    def cancel(self) -> None:
        """Free its slot; whoever waits for its next piece gets a `CancelledError`."""
        if self._codes is not None:
            self._codes.cancel()

    def __del__(self) -> None:
        self.cancel()


class Generator:
    """A bundle at work. All methods may be called from any thread. On a CPU a call that works by itself takes the
    bundle's number of torch threads (`generation.threads`), so that a seed gives the same bytes on any number of cores.

    Args:
        slots: how many clips to make together at a time: calls from several threads then share a batch, and windows of
            all clips are rendered by one thread, several in a call where that is faster. Without slots every call
            works by itself, in the thread that takes its audio.
        waiting: clips that may wait for a slot; more are refused.
        deterministic: with slots, give every seed the same bits in any company, see `SlotBatch`; slower where few
            clips are made.
        compiled: with slots, see `compile`.

    Raises:
        UserError: if there are slots and the backbone's state grows with the piece.
    """

    def __init__(
        self, bundle: Bundle, slots: int = 0, waiting: int = 32, deterministic: bool = False, compiled: bool = False
    ):
        self.bundle, self.config = bundle, bundle.config.generation
        self.sample_rate, self.frame_rate = bundle.codec.sample_rate, bundle.codec.frame_rate
        self.renderer = WindowRenderer(bundle.completer, bundle.codec, self.config)
        self._engine: SlotEngine | None = None
        if slots:
            tokens, rereading = bundle.text_encoder.max_tokens, Rereading.of(self.config)
            self._engine = SlotEngine(bundle.lm, slots, tokens, waiting, deterministic, compiled, rereading)
            self._pool = WindowPool(self.renderer, deterministic=deterministic)

    @classmethod
    def load(
        cls, uri: str | os.PathLike[str] | None = None, device: str | None = None, precision: str = "fp32", **slots: Any
    ) -> Generator:
        """Load a bundle.

        Args:
            uri: its folder or URI; the one that comes with the package when left out.
            device: CUDA by default where there is one.
            precision: of the language model's large matrices: fp32, bf16, or int8 with one scale per output. Decoding
                one clip takes as long as reading them, so fewer bits are faster; clips of one seed differ.
            slots: arguments of `Generator`.

        Raises:
            UserError: if it is missing, incomplete or damaged, or the precision is unknown.
        """
        if precision not in PRECISIONS:
            raise UserError(f"precision is {precision!r}; give one of: {', '.join(PRECISIONS)}")
        bundle = load_bundle(storage.as_text(uri or shipped_bundle()), device)
        if precision != "fp32":
            bundle.lm.narrow(precision)
        return cls(bundle, **slots)

    def compile(self) -> bool:
        """Compile the decoding of single clips, guided and not, and say whether that worked; otherwise (there is no
        C++ compiler, for one) decoding goes on as it is, with a warning. Takes half a minute the first time, later
        less. Compiled and uncompiled clips of one seed differ."""
        lm = self.bundle.lm
        if self.bundle.device.type == "cuda":  # there, each clip's step is a CUDA graph anyway
            return True
        rows = FixedRows(lm, 2, tokens=1) if lm.fixed_state else GrowingRows(lm, tokens=1)
        with torch_threads(self.config.threads):
            return rows.warm_up(compiled=True)

    @property
    def model_id(self) -> str:
        return self.bundle.model_id

    def stream(self, prompt: str | MusicRequest, *arguments: Any, **fields: Any) -> ClipStream:
        """Make one clip, piece by piece as they are taken; memory does not grow with its length.

        Args:
            prompt: a request, or what the music should be like; then the other arguments are fields of `MusicRequest`,
                in its order or by name.

        Raises:
            UserError: at once, if anything is out of bounds.
            QueueFullError, EngineClosedError: in a generator with slots, see `SlotEngine.submit`.
        """
        take = self._take(_request(prompt, *arguments, **fields))
        codes = None if self._engine is None else self._engine.submit(take.piece)
        made = (part for (part,) in self._make_alone([take])) if codes is None else self._make_in_slots(take, codes)
        pieces = (Audio(samples_1N, self.sample_rate) for samples_1N in made)
        return ClipStream(take.piece.request, pieces, codes)

    def generate(self, prompt: str | MusicRequest, *arguments: Any, **fields: Any) -> Audio:
        """One clip: the concatenation of `stream`, whose arguments and errors it shares."""
        pieces = [piece.samples for piece in self.stream(prompt, *arguments, **fields)]
        return Audio(np.concatenate(pieces, axis=1), self.sample_rate)

    def generate_batch(
        self,
        prompts: Sequence[str],
        seconds: float = 10.0,
        seeds: Sequence[int | None] | None = None,
        *arguments: Any,
        **fields: Any,
    ) -> list[Audio]:
        """One clip per prompt, made together. Each is what `generate` gives with its seed and as many threads: on a CPU
        to the last bit, on a GPU up to rounding, as long as both draw the same codes.
        Stage 1 rounds another way in company, by some 1e-6 of a probability: about one draw in a million falls on the
        other side of the border between two codes, and the clip is another one from there on.

        Args:
            arguments, fields: of all requests, as `stream` takes them.

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
        requests = [
            MusicRequest(prompt, seconds, seed, *arguments, **fields)
            for prompt, seed in zip(prompts, wanted, strict=True)
        ]
        if self._engine is not None or requests[0].audio is not None:
            with ThreadPoolExecutor(len(requests)) as threads:
                return list(threads.map(self.generate, requests))
        pieces = list(self._make_alone([self._take(request) for request in requests]))
        return [Audio(np.concatenate(parts, axis=1), self.sample_rate) for parts in zip(*pieces, strict=True)]

    def extend(self, audio: Audio, prompt: str, *arguments: Any, **fields: Any) -> Audio:
        """The given audio, of any rate and number of channels (see `audio.checked`), made mono at the model's rate,
        followed by music that continues it.

        The last 0.1 s of the given audio fade into the model's rendering of them; all before stays as it is.

        Args:
            arguments, fields: as `stream` takes them.

        Raises:
            UserError: as `stream`, and if the audio is shorter than a code frame, or the whole over the limit.
        """
        return self.generate(_request(prompt, *arguments, **fields, audio=audio))

    def to_bytes(self, audio: Audio, extension: str, prompt: str | MusicRequest, seed: int) -> bytes:
        """An audio file (wav, flac, ogg or mp3) that says what it is: AI-generated, by which model, from what: from a
        request also which controls were asked for.

        Raises:
            UserError: for an unknown extension, audio that `audio.checked` refuses, or a seed that is none.
        """
        made = BOUNDS["seed"].plain("seed", seed)
        BOUNDS["seed"].check("seed", made)
        asked = prompt if isinstance(prompt, MusicRequest) else MusicRequest(prompt)
        return files.encode(audio, extension, files.provenance(self.model_id, asked.title, int(made), asked.told))

    def save(self, uri: str | os.PathLike[str], audio: Audio, prompt: str | MusicRequest, seed: int) -> None:
        """Write `to_bytes` to a file whose format follows from its extension.

        Raises:
            UserError: as `to_bytes`, and if the file cannot be written.
        """
        uri = storage.as_text(uri)
        storage.write_bytes(uri, self.to_bytes(audio, extension_of(uri), prompt, seed))

    def metrics(self) -> EngineMetrics:
        """Counters of stage 1 in a generator with slots."""
        assert self._engine is not None
        return self._engine.metrics()

    def close(self) -> None:
        """End all clips and threads of a generator with slots."""
        if self._engine is not None:
            self._engine.close()
            self._pool.close()

    def __enter__(self) -> Generator:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self, request: MusicRequest) -> Take:
        with torch_threads(self.config.threads):
            take = Take(self.bundle, self.renderer, request)
        longest = Rereading.of(self.config).longest_read(take.piece.known + take.piece.frames)
        self.bundle.lm.check_length(longest)
        return take

    def _make_alone(self, takes: Sequence[Take]) -> Iterator[tuple[np.ndarray, ...]]:
        """Consecutive audio of takes that are equally long, [1, N] of each, made as it is taken. A CPU renders them no
        faster together, and one by one as if each were alone, to the last bit."""
        alone = self.renderer.device.type == "cpu"
        groups = [[take.piece] for take in takes] if alone else [[take.piece for take in takes]]
        renderings = [Rendering(self.renderer, pieces) for pieces in groups]
        with torch_threads(self.config.threads):
            batch = SlotBatch.of(self.bundle.lm, [take.piece for take in takes], Rereading.of(self.config))
        while renderings[0].left:
            with torch_threads(self.config.threads):
                codes = batch.read(renderings[0].wanted).split([len(pieces) for pieces in groups])
                made_B1N = torch.cat(
                    [one.render([codes_BKT]) for one, codes_BKT in zip(renderings, codes, strict=True)]
                )
                added = [take.add(made_11N) for take, made_11N in zip(takes, made_B1N.split(1), strict=True)]
            yield from zip(*added, strict=True)

    def _make_in_slots(self, take: Take, codes: CodeStream) -> Iterator[np.ndarray]:
        rendering = Rendering(self.renderer, [take.piece])
        while rendering.left:
            codes_1KT = torch.from_numpy(codes.read(rendering.wanted))[None]
            yield from take.add(self._pool.render(rendering, codes_1KT))


def _request(prompt: str | MusicRequest, *arguments: Any, **fields: Any) -> MusicRequest:
    if not isinstance(prompt, MusicRequest):
        return MusicRequest(prompt, *arguments, **fields)
    if arguments or fields:
        raise TypeError("a MusicRequest holds all of its fields; give no others beside it")
    return prompt
