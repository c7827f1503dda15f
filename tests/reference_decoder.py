"""Stage 1 at inference without slots: what the engine is compared with. Conditional and unconditional rows are in one
batch that begins and ends together.

Shapes: B clips, R rows of recurrent state (B, or 2B with guidance), K codebooks, V codes, T frames. Step s of the
delayed sequence holds frame s - k of codebook k.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ssmttm.conditions.base import Conditions
from ssmttm.engine.request import Sampling
from ssmttm.engine.sampling import SamplingRows, frame_uniforms, guide, sample_each
from ssmttm.engine.slots import NEVER, Rereading
from ssmttm.model.delay import as_beginning, holds_frame
from ssmttm.model.lm import MusicLM
from ssmttm.model.step_graph import capture


class Decoder:
    """Draws the codes of B clips, frame by frame; what it remembers does not grow with their length.

    Args:
        lm: in evaluation mode.
        text: the prompts, one row per clip.
        seeds: one per clip.
        sampling: of all clips. With guidance 1 the unconditional rows are left out.
        rereading: of pieces that are longer than what the model was trained on.
        rows, combine: for guidance of another kind, the conditions of all rows that each clip takes, B of each, and
            what becomes of their logits [B, K, V].
    """

    def __init__(
        self,
        lm: MusicLM,
        text: Conditions,
        seeds: Sequence[int],
        sampling: Sampling,
        rereading: Rereading = NEVER,
        rows: Sequence[Conditions] = (),
        combine: Callable[..., Tensor] | None = None,
    ):
        self._lm, self._seeds, self._sampling, self._rereading = lm, list(seeds), sampling, rereading
        rereading.check(lm.config.num_codebooks)
        self._device = next(lm.parameters()).device
        guided, unguided = [text, text.as_null()], [text]
        parts = list(rows) or (unguided if sampling.guidance == 1.0 else guided)
        self._count, self._blend = len(parts), combine or self._guide
        self._sampling_rows = SamplingRows.of([sampling] * len(self._seeds), self._device)
        self._text = (Conditions.cat(*parts) if len(parts) > 1 else parts[0]).to(self._device)

    def frames(self, frames: int, primer_BKT: Tensor | None = None) -> Iterator[Tensor]:
        """Yield `frames` new frames of codes, int64 [B, K] each, continuing after the codes of `primer_BKT`.

        New frames are numbered from the primer's length on, and draw the random numbers of that place.
        """
        codebooks = self._lm.config.num_codebooks
        known = 0 if primer_BKT is None else primer_BKT.shape[2]
        total = known + frames
        recent: deque[Tensor] = deque(maxlen=max(codebooks, self._rereading.frames))
        self._controls_RSD = self._lm.controls(self._text, total + codebooks)
        logits_BKV = self._prefill(self._text)
        for step in range(total + codebooks - 1):
            tokens_BK = self._draw(logits_BKV, step, total, primer_BKT)
            recent.append(tokens_BK)
            frame = step - codebooks + 1
            if frame >= known:
                yield torch.stack([recent[k - codebooks][:, k] for k in range(codebooks)], dim=1)
            if frame + 1 == total:
                return
            if self._rereading.is_due(step + 1):
                last_BKS = torch.stack(list(recent)[-self._rereading.frames :], dim=2)
                conditions = self._text.frames(step + 1 - self._rereading.frames, total + codebooks)
                logits_BKV = self._prefill(conditions, as_beginning(last_BKS, self._lm.special))
            else:
                logits_BKV = self._step(tokens_BK, step + 1)

    @torch.inference_mode()
    def _prefill(self, conditions: Conditions, delayed_BKS: Tensor | None = None) -> Tensor:
        logits_RKV, self._state = self._lm.prefill(
            conditions, None if delayed_BKS is None else self._for_rows(delayed_BKS)
        )
        self._graph = capture(self._lm, self._state)
        return self._combine(logits_RKV)

    def _for_rows(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens] * self._count)

    @torch.inference_mode()
    def _step(self, tokens_BK: Tensor, step: int) -> Tensor:
        tokens_RK = self._for_rows(tokens_BK)
        controls_RD = None if self._controls_RSD is None else self._controls_RSD[:, step]
        if self._graph is not None:
            return self._combine(self._graph(tokens_RK, controls_RD))
        logits_RKV, self._state = self._lm.step(tokens_RK, self._state, controls_RD)
        return self._combine(logits_RKV)

    def _combine(self, logits_RKV: Tensor) -> Tensor:
        return self._blend(*logits_RKV.float().chunk(self._count))

    def _guide(self, conditional_BKV: Tensor, unconditional_BKV: Tensor | None = None) -> Tensor:
        if unconditional_BKV is None:
            return conditional_BKV
        return guide(conditional_BKV, unconditional_BKV, self._sampling.guidance)

    def _draw(self, logits_BKV: Tensor, step: int, total: int, primer_BKT: Tensor | None) -> Tensor:
        """Tokens of one step: codes of the primer where it has them, drawn ones after it, `special` outside."""
        codebooks = self._lm.config.num_codebooks
        uniforms_BK = np.zeros((len(self._seeds), codebooks))
        for k in range(codebooks):
            for clip, seed in enumerate(self._seeds):
                uniforms_BK[clip, k] = frame_uniforms(seed, max(step - k, 0), codebooks)[k]
        tokens_BK = sample_each(logits_BKV, torch.from_numpy(uniforms_BK).to(self._device), self._sampling_rows)
        known = 0 if primer_BKT is None else primer_BKT.shape[2]
        for k, holds in enumerate(holds_frame(step, codebooks, total)):
            if not holds:
                tokens_BK[:, k] = self._lm.special
            elif primer_BKT is not None and step - k < known:
                tokens_BK[:, k] = primer_BKT[:, k, step - k]
        return tokens_BK
