"""Window borders cannot be told from other places.

A stage 2 of random weights would not show it: it has no memory, so windows that know nothing of each other would meet
without a seam too. Here the denoiser is the exact one for latents that wander whatever the coarse codes say (a
first-order autoregression): what comes next hangs on what was there, and on nothing else.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from batches import piece_of
from torch import Tensor, nn

from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
from ssmttm.config import GenerationConfig
from ssmttm.engine.generator import Generator
from ssmttm.engine.piece import Finished
from ssmttm.engine.windows import Window, WindowRenderer
from ssmttm.evaluation import seams

CORRELATION = 0.8  # from a frame to the next; the fine latents of composed music have about .65
CLIPS, WINDOWS = 8, 50
TOLERANCE = 0.06  # of the area under the ROC curve, whose standard error is .015 with 392 borders
WITH_CONTEXT = GenerationConfig(window_frames=32, context_frames=12, lookahead_frames=4, first_frames=16)  # hop 16
WITHOUT_CONTEXT = GenerationConfig(window_frames=20, context_frames=0, lookahead_frames=4, first_frames=16)


class Wandering(nn.Module):
    """The exact velocity for a Gaussian process of covariance S over frames: with x = (1 - t) noise + t fine,
    E[fine - noise | x] = (t S - (1 - t) I) (t^2 S + (1 - t)^2 I)^-1 x."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x_BDT: Tensor, t_B: Tensor, coarse_BDT: Tensor, text: Conditions, mask_BT: None) -> Tensor:
        frame, t = torch.arange(x_BDT.shape[-1], dtype=torch.float64), float(t_B[0])
        covariance_TT = CORRELATION ** (frame[:, None] - frame).abs()
        identity_TT = torch.eye(len(frame), dtype=torch.float64)
        mixture_TT = t**2 * covariance_TT + (1 - t) ** 2 * identity_TT
        gain_TT = torch.linalg.solve(mixture_TT, t * covariance_TT - (1 - t) * identity_TT)
        return x_BDT @ gain_TT.float()


def areas(generator: Generator, windows: GenerationConfig, with_trail: bool = True) -> dict[str, float]:
    """How well window borders are told from other junctions: by the change of the latents, and of the sound."""
    codec = generator.bundle.codec
    completer = copy.deepcopy(generator.bundle.completer)
    completer.denoiser = Wandering()
    renderer = WindowRenderer(completer, codec, windows)
    frames = renderer.hop * WINDOWS
    fine: list[Tensor] = []
    decode = renderer.decode

    def listen(done: Finished, *state: object, final: bool) -> object:
        fine.append(done.fine_BDT)
        return decode(done, *state, final=final)

    renderer.decode = listen  # type: ignore[method-assign,assignment]
    if not with_trail:
        complete = renderer.complete

        def forgetful(windows: Sequence[Window]) -> list[Finished]:
            return complete([replace(one, context=replace(one.context, trail=())) for one in windows])

        renderer.complete = forgetful  # type: ignore[method-assign]
    codes_BT = torch.zeros(CLIPS, 1, dtype=torch.int64).expand(-1, frames)
    conditions = collate_text(generator.bundle.text_encoder.encode(["calm piano"]))
    pieces = [piece_of(conditions, frames, seed, steps=8) for seed in range(CLIPS)]
    rendered = renderer.render(iter(codes_BT[:, None].unbind(2)), pieces)
    wav_BN = torch.cat(list(rendered), dim=2)[:, 0].numpy()
    heard = [seams.changes(wav_N, codec.sample_rate, codec.hop_length) for wav_N in wav_BN]
    values = {name: np.concatenate([getattr(one, name) for one in heard]) for name in ("level", "flux", "burst")}
    values["latents"] = torch.cat(fine, dim=2).diff(dim=2).square().mean(1).flatten().numpy()
    at_border = np.tile(seams.borders(frames - 1, renderer.hop, renderer.first_hop), CLIPS)
    return {name: seams.separation(value, at_border)[0] for name, value in values.items()}


def test_borders_cannot_be_told_from_other_places(generator: Generator) -> None:
    for name, area in areas(generator, WITH_CONTEXT).items():
        assert abs(area - 0.5) < TOLERANCE, name


def test_without_context_they_can(generator: Generator) -> None:
    """The test above would notice."""
    found = areas(generator, WITHOUT_CONTEXT)
    assert found["latents"] > 0.9
    assert found["flux"] > 0.7


def test_on_a_straight_line_they_can(generator: Generator) -> None:
    """Known frames that come on a line which samples do not take hold on to what follows."""
    assert areas(generator, WITH_CONTEXT, with_trail=False)["latents"] < 0.4
