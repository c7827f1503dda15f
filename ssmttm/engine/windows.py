"""From codes to audio, in windows: codes come in, audio goes out, memory stays constant.

A window owns some frames of a piece. Stage 2 completes it together with up to `context_frames` finished frames on its
left, which stay as they are and are met again as they were at every sampling step, and up to `lookahead_frames` coarse
frames on its right, whose fine latents are thrown away. The first window owns few frames, so that sound begins early,
and each one after it twice as many, up to the hop, so that the next is there when the last has been heard. Windows and
noise depend on the place in the piece only, so a piece has one result however its audio is taken out. Where stage 1
writes all codebooks, windows are no more than portions.

Shapes: B clips, K codebooks that stage 1 writes, T frames, N samples, Df fine dimensions.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from ssmttm.codec.base import Codec
from ssmttm.conditions.base import Conditions
from ssmttm.config import GenerationConfig
from ssmttm.engine.piece import Finished, Piece
from ssmttm.engine.sampling import frame_noise
from ssmttm.errors import UserError
from ssmttm.hardware import torch_threads
from ssmttm.model.diffusion import Blend, LatentCompleter, Sampler

BATCH = 8  # windows that a GPU renders in a call


@dataclass(frozen=True)
class Window:
    """What is completed in one go.

    context: finished frames on the left.
    codes_BKT: owned frames, then look-ahead.
    pieces: of the batch, one per clip.
    first_frame: absolute number of the first frame of `codes_BKT`.
    owned: how many of its frames to complete.
    """

    context: Finished
    codes_BKT: Tensor
    pieces: Sequence[Piece]
    first_frame: int
    owned: int

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Windows of one shape can be completed together."""
        context, piece = self.context, self.pieces[0]
        return (
            context.frames,
            len(context.trail),
            self.codes_BKT.shape[2],
            self.owned,
            piece.request.steps,
            piece.prompts,
        )


class FineSource(Protocol):
    """Makes the fine latents of windows. `lookahead`: frames behind a window that it wants to see."""

    lookahead: int

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        """Context and owned frames of each window, all finished. The windows must be of one shape."""
        ...


class FromCodebooks:
    """Codebooks 1 to K-1 as stage 1 wrote them: nothing is drawn, and no frame asks for others. Codebooks that the
    codec has beyond K are left out."""

    lookahead = 0

    def __init__(self, codec: Codec):
        self._codec = codec

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        return [self._finish(window) for window in windows]

    def _finish(self, window: Window) -> Finished:
        context, codes_BKT = window.context, window.codes_BKT[:, :, : window.owned]
        fine_BDT = self._codec.fine_from_codes(codes_BKT)
        return Finished(
            torch.cat([context.codes_BT, codes_BKT[:, 0]], dim=1), torch.cat([context.fine_BDT, fine_BDT], dim=2)
        )


class FromStage2:
    """Codebook 0 completed by stage 2, which sees the finished frames before a window and codes behind it.

    Args:
        completer: in evaluation mode, on the codec's device.
        config: look-ahead in code frames; solver and the rest of the sampling.
    """

    def __init__(self, completer: LatentCompleter, codec: Codec, config: GenerationConfig):
        self.lookahead = config.lookahead_frames
        self._completer, self._codec, self._config = completer, codec, config

    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        known, owned, steps = windows[0].context.frames, windows[0].owned, windows[0].pieces[0].request.steps
        assert steps is not None
        device = self._codec.device
        context_BDT = torch.cat([window.context.fine_BDT for window in windows])
        window_BT = torch.cat([torch.cat([one.context.codes_BT, one.codes_BKT[:, 0]], dim=1) for one in windows])

        frames, dim = window_BT.shape[1], self._codec.fine_dim
        firsts = [window.first_frame - known for window in windows]
        pieces = [(piece, first) for window, first in zip(windows, firsts, strict=True) for piece in window.pieces]

        def noise(draw: int) -> Tensor:
            drawn = [
                frame_noise([piece.seed for piece in window.pieces], first, frames, dim, draw)
                for window, first in zip(windows, firsts, strict=True)
            ]
            return torch.cat(drawn).to(device)

        trail: list[Tensor] = []
        fine_BDT = self._completer.sample(
            self._codec.coarse(window_BT),
            blended(pieces, frames, device),
            noise(0),
            Sampler.of(self._config, steps, self._config.stage2_guidance),
            known_BDT=context_BDT,
            known_frames=known,
            fresh=lambda step: noise(step + 1),
            known_trail=[torch.cat(looks) for looks in zip(*(window.context.trail for window in windows), strict=True)],
            trail=trail,
        )
        fine_BDT = torch.cat([context_BDT, fine_BDT[:, :, known : known + owned]], dim=2)
        clips = [len(window.pieces) for window in windows]
        trails = zip(*(look_BDT[:, :, : known + owned].split(clips) for look_BDT in trail), strict=True)
        codes = window_BT[:, : known + owned].split(clips)
        return [Finished(*parts) for parts in zip(codes, fine_BDT.split(clips), trails, strict=True)]


def blended(pieces: Sequence[tuple[Piece, int]], frames: int, device: torch.device) -> Blend:
    """What stage 2 is asked for in `frames` frames of pieces with equally many prompts, from a frame of each on."""
    asked = [piece.asked_between(first, first + frames) for piece, first in pieces]
    prompts = [Conditions.cat(*(part.rows([row]) for part in asked)) for row in range(pieces[0][0].prompts)]
    weights = torch.tensor([piece.weights for piece, _ in pieces], device=device)
    unasked = Conditions.cat(*(piece.unasked(part) for (piece, _), part in zip(pieces, asked, strict=True)))
    return Blend(
        [prompt.to(device) for prompt in prompts], list(weights.T[..., None, None].unbind()), unasked.to(device)
    )


class WindowRenderer:
    """Turns codes into audio.

    Args:
        completer: in evaluation mode; None where stage 1 writes the codebooks that fine latents come from.
        codec: on the same device.
        config: window, context and look-ahead in code frames; solver and the rest of stage 2's sampling.

    Raises:
        UserError: if context and look-ahead leave no room in the window, or there is a completer and no number of
            sampling steps.
    """

    def __init__(self, completer: LatentCompleter | None, codec: Codec, config: GenerationConfig):
        if completer is not None and config.steps is None:
            raise UserError("generation.steps=null, but stage 2 is sampled in steps; give their number, e.g. 8")
        self._fine: FineSource = FromCodebooks(codec) if completer is None else FromStage2(completer, codec, config)
        self.context, self.lookahead = config.context_frames, self._fine.lookahead
        self.hop = config.window_frames - self.context - self.lookahead
        if self.hop < 1:
            raise UserError(
                f"generation.window_frames={config.window_frames} must exceed generation.context_frames + "
                f"generation.lookahead_frames = {self.context + self.lookahead}"
            )
        self.first_hop = min(config.first_frames, self.hop)
        hops = [self.first_hop]
        while hops[-1] < self.hop:
            hops.append(min(2 * hops[-1], self.hop))
        # How many fresh codes each window takes, in turn, the last number of them for all that follow.
        self.portions = (hops[0] + self.lookahead, *hops[1:], self.hop)
        self.fine_dim = codec.fine_dim
        self._codec, self.device = codec, codec.device

    def render(self, codes: Iterator[Tensor], pieces: Sequence[Piece]) -> Iterator[Tensor]:
        """Yield consecutive audio float32 [B, 1, N] of equally long pieces, taking codes no earlier than needed.

        Args:
            codes: of each frame, int64 [B, K].
            pieces: one per clip. The last `context` frames of their history are used, and their audio comes first.
        """
        rendering = Rendering(self, pieces)
        while rendering.left:
            yield rendering.render([codes_BK[:, :, None] for codes_BK in islice(codes, rendering.wanted)])

    @torch.inference_mode()
    def complete(self, windows: Sequence[Window]) -> list[Finished]:
        """Context and owned frames of each window, all finished. The windows must be of one shape."""
        return self._fine.complete(windows)

    @torch.inference_mode()
    def decode(self, frames: Finished, state: Any, final: bool) -> tuple[Tensor, Any]:
        """`Codec.decode_chunk` of finished frames."""
        coarse_BDT = self._codec.coarse(frames.codes_BT)
        return self._codec.decode_chunk(coarse_BDT, frames.fine_BDT, state, final=final)


class Rendering:
    """Equally long pieces on their way to sound, window after window.

    left: frames not yet asked for. wanted: how many codes the next window takes.
    """

    def __init__(self, renderer: WindowRenderer, pieces: Sequence[Piece]):
        self._renderer, self._pieces, self.left = renderer, pieces, pieces[0].frames
        self._pending: list[Tensor] = []  # [B, K, T] each
        history, clips, device = pieces[0].history, len(pieces), renderer.device
        if history is None:
            codes_BT = torch.empty(clips, 0, dtype=torch.int64, device=device)
            history = Finished(codes_BT, torch.empty(clips, renderer.fine_dim, 0, device=device))
        self._context = history.last(renderer.context)
        self._unheard = self._context.frames
        self._first_frame, self._hop = pieces[0].known, renderer.first_hop
        self._vocoder: Any = None

    @property
    def wanted(self) -> int:
        pending = sum(codes_BKT.shape[2] for codes_BKT in self._pending)
        return min(self._owned + self._renderer.lookahead, self.left) - pending

    @property
    def _owned(self) -> int:
        return min(self._hop, self.left)

    def window(self, *codes_BKT: Tensor) -> Window:
        """The next window, made with the codes that it wants, in any number of portions."""
        fresh = [part_BKT.to(self._renderer.device, torch.int64) for part_BKT in codes_BKT]
        self._pending = [torch.cat([*self._pending, *fresh], dim=2)]
        return Window(self._context, self._pending[0], self._pieces, self._first_frame, self._owned)

    def render(self, codes_BKT: Sequence[Tensor]) -> Tensor:
        """The audio [B, 1, N] that the next window adds, rendered right here, from the codes that it wants."""
        return self.hear(self._renderer.complete([self.window(*codes_BKT)])[0])

    def hear(self, done: Finished) -> Tensor:
        """The audio [B, 1, N] that the completed window adds."""
        owned = self._owned
        fresh = done.last(self._unheard + owned)
        audio_B1N, self._vocoder = self._renderer.decode(fresh, self._vocoder, final=owned == self.left)
        self._context, self._unheard = done.last(self._renderer.context), 0
        self._pending = [self._pending[0][:, :, owned:]]
        self._first_frame += owned
        self.left -= owned
        self._hop = min(2 * self._hop, self._renderer.hop)
        return audio_B1N


class PoolClosedError(RuntimeError):
    """The pool was closed before a window was rendered."""


@dataclass(eq=False)
class _Job:
    rendering: Rendering
    window: Window
    audio: Future[Tensor] = field(default_factory=Future)


class WindowPool:
    """One thread that renders windows of many pieces, several in a call where they have one shape.

    Args:
        batch: windows in a call at most; default: `BATCH` on a GPU, one on a CPU, which renders them no faster together
            and keeps everyone waiting for all.
        deterministic: one window at a time on one thread of torch, so that neither how many wait nor the machine
            chooses between kernels.
    """

    def __init__(self, renderer: WindowRenderer, batch: int | None = None, deterministic: bool = False):
        self.renderer = renderer
        self._batch = 1 if deterministic else batch or (1 if renderer.device.type == "cpu" else BATCH)
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        run = torch_threads()(self._run) if deterministic else self._run
        self._thread = threading.Thread(target=run, name="window-pool", daemon=True)
        self._thread.start()

    def render(self, rendering: Rendering, codes_BKT: Tensor) -> Tensor:
        """The audio [B, 1, N] of a rendering's next window, given the codes that it wants. Waits until it is rendered.

        Raises:
            PoolClosedError: after `close`.
        """
        job = _Job(rendering, rendering.window(codes_BKT))
        with self._changed:
            if self._closed:
                raise PoolClosedError("the renderer is closed")
            self._jobs.append(job)
            self._changed.notify()
        return job.audio.result()

    def close(self) -> None:
        """End the thread; windows that wait are not rendered."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _take(self) -> list[_Job]:
        """The shortest window, the oldest of several, and others of its shape; none at the end. A short one
        begins a piece that nobody hears yet, or ends one, and costs the others little."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            if self._closed:
                return []
            shape = min(self._jobs, key=lambda job: job.window.owned).window.shape
            taken = [job for job in self._jobs if job.window.shape == shape][: self._batch]
            self._jobs = deque(job for job in self._jobs if job not in taken)
            return taken

    def _run(self) -> None:
        while jobs := self._take():
            try:
                finished = self.renderer.complete([job.window for job in jobs])
            except BaseException as error:  # belongs to those who wait
                for job in jobs:
                    job.audio.set_exception(error)
                continue
            for job, done in zip(jobs, finished, strict=True):
                try:
                    job.audio.set_result(job.rendering.hear(done))
                except BaseException as error:
                    job.audio.set_exception(error)
        for job in self._jobs:
            job.audio.set_exception(PoolClosedError("the renderer is closed"))
