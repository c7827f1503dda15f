"""Stage 2: from noise to the fine latents, given the coarse ones and the conditions.

Latents enter and leave in the codec's units; inside they have zero mean and unit variance per dimension. What the
denoiser learns (`stage2.objective`) and how its output is read is for `paths.py`, how noise becomes data for
`solvers.py`. Shapes: B batch, T frames, D latent dimensions (Df fine, Dc coarse).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import TextInput, TextStatistics
from ssmttm.config import GenerationConfig, Stage2Config
from ssmttm.errors import UserError
from ssmttm.model.denoisers.registry import build_denoiser
from ssmttm.model.lm import parameter_groups
from ssmttm.model.paths import path_of
from ssmttm.model.solvers import SOLVERS, FreshNoise, ancestral, time_grid


@dataclass(frozen=True)
class Sampler:
    """How fine latents are drawn.

    steps, solver, grid: see `solvers.py`; a regressor takes one step whatever they say.
    guidance: classifier-free guidance on the conditions (arXiv 2207.12598); 1 uses them alone, without a second pass.
    rescale: how far guidance keeps the deviation that the output has without it, from 0 (not at all) to 1.
    coarse_guidance: guidance on the coarse latents besides (composed as in arXiv 2211.09800, equation 3); any value
        but 1 costs a third pass.
    guided_until: the level from which on neither acts. What a piece is like is decided near the noise; later on,
        guidance costs more than it gives (arXiv 2404.07724).
    """

    steps: int
    solver: str = "euler"
    grid: str = "uniform"
    guidance: float = 1.0
    rescale: float = 0.0
    coarse_guidance: float = 1.0
    guided_until: float = 1.0

    @staticmethod
    def of(config: GenerationConfig, steps: int, guidance: float) -> Sampler:
        """As configured, with these steps and this guidance on the conditions."""
        return Sampler(
            steps,
            config.solver,
            config.time_grid,
            guidance,
            config.stage2_guidance_rescale,
            config.stage2_coarse_guidance,
            config.stage2_guided_until,
        )


def rescaled(guided_BDT: Tensor, plain_BDT: Tensor, share: float) -> Tensor:
    """A guided output brought towards the deviation of the one without guidance, row by row (arXiv 2305.08891,
    section 3.4)."""
    factor = plain_BDT.std((1, 2), keepdim=True) / guided_BDT.std((1, 2), keepdim=True)
    return guided_BDT * (share * factor + (1 - share))


@dataclass(frozen=True)
class Blend:
    """What several prompts ask for together. prompts: conditions of B clips, one batch a prompt. weights: of each
    [B, 1, 1], which add up to 1. unasked: conditions of B clips that guidance leads away from."""

    prompts: Sequence[Conditions]
    weights: Sequence[Tensor]
    unasked: Conditions


class _Attempt(NamedTuple):
    """Normalised fine latents and noise, level [B, 1, 1], the point between them, and the denoiser's output there."""

    fine: Tensor
    noise: Tensor
    level: Tensor
    y: Tensor
    output: Tensor


class LatentCompleter(nn.Module):
    """A denoiser with the normalisation of its latents, the losses and the sampler.

    Args:
        widths: of each condition, by name: that of its states, or its number of channels.
    """

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, widths: Mapping[str, int]):
        super().__init__()
        self.config, self.fine_dim, self.coarse_dim, self.widths = config, fine_dim, coarse_dim, dict(widths)
        self.path = path_of(config.objective)
        self.denoiser = build_denoiser(config, fine_dim, coarse_dim, widths)
        for name, dim in (("fine", fine_dim), ("coarse", coarse_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_std", torch.ones(dim))
        self.null_coarse = nn.Parameter(torch.zeros(coarse_dim)) if config.coarse_null_probability else None

    def set_statistics(self, coarse_mean: Tensor, coarse_std: Tensor, fine_mean: Tensor, fine_std: Tensor) -> None:
        """Mean and deviation per latent dimension, measured on the training shards; stored with the weights."""
        for name, values in (
            ("coarse_mean", coarse_mean),
            ("coarse_std", coarse_std.clamp(min=1e-4)),
            ("fine_mean", fine_mean),
            ("fine_std", fine_std.clamp(min=1e-4)),
        ):
            self.get_buffer(name).copy_(values)

    def set_text_statistics(self, statistics: TextStatistics) -> None:
        """Standardise text by these from now on; they are stored with the weights."""
        cast(TextInput, self.denoiser.inputs["text"]).set_statistics(statistics)

    def _normalise(self, name: str, latents_BDT: Tensor) -> Tensor:
        mean, std = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_std")
        return (latents_BDT - mean[:, None]) / std[:, None]

    def _output(
        self, y_BDT: Tensor, level_B: Tensor, coarse_BDT: Tensor, conditions: Conditions, mask_BT: Tensor | None = None
    ) -> Tensor:
        """What the denoiser says at y on the common path, in its objective's own units."""
        seen_BDT = self.path.network_input(y_BDT, level_B[:, None, None])
        return self.denoiser(seen_BDT, self.path.time(level_B), coarse_BDT, conditions, mask_BT)

    def _attempt(
        self,
        fine_BDT: Tensor,
        coarse_BDT: Tensor,
        conditions: Conditions,
        level_B: Tensor,
        noise_BDT: Tensor,
        mask_BT: Tensor,
        coarse_null_B: Tensor | None = None,
    ) -> _Attempt:
        valid_B1T = mask_BT[:, None]
        coarse = self._normalise("coarse", coarse_BDT)
        if self.null_coarse is not None and coarse_null_B is not None:
            coarse = torch.where(coarse_null_B[:, None, None], self.null_coarse[:, None], coarse)
        if self.config.objective == "regression":
            level_B, noise_BDT = torch.zeros_like(level_B), torch.zeros_like(noise_BDT)
        fine, noise = self._normalise("fine", fine_BDT) * valid_B1T, noise_BDT * valid_B1T
        level_B11 = level_B[:, None, None]
        y = (1 - level_B11) * noise + level_B11 * fine
        output = self._output(y, level_B, coarse * valid_B1T, conditions, mask_BT)
        return _Attempt(fine, noise, level_B11, y, output.float())

    def loss(
        self,
        fine_BDT: Tensor,
        coarse_BDT: Tensor,
        conditions: Conditions,
        t_B: Tensor,
        noise_BDT: Tensor,
        mask_BT: Tensor,
        coarse_null_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What training lowers: the error of the objective's target (squared, or with `stage2.loss=l1` absolute),
        averaged over dimensions and summed over valid frames; and their number.

        Args:
            t_B: the network's time.
            mask_BT: True on valid frames.
            coarse_null_B: rows whose coarse latents are replaced by the learned null vector.
        """
        made = self._attempt(fine_BDT, coarse_BDT, conditions, self.path.level(t_B), noise_BDT, mask_BT, coarse_null_B)
        error_BDT = made.output - self.path.target(made.fine, made.noise, made.level)
        error_BT = (error_BDT.abs() if self.config.loss == "l1" else error_BDT.square()).mean(1)
        return (error_BT * mask_BT).sum(), mask_BT.sum()

    def validation_loss(
        self,
        fine_BDT: Tensor,
        coarse_BDT: Tensor,
        conditions: Conditions,
        level_B: Tensor,
        noise_BDT: Tensor,
        mask_BT: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Squared error of `fine - noise` at a level, summed as in `loss`: the same question to models of every
        objective and loss, for at one level all see the same noise in the same latents. A regressor, which sees no
        noise, has the squared error of its fine latents: that of the others at level 0.
        """
        made = self._attempt(fine_BDT, coarse_BDT, conditions, level_B, noise_BDT, mask_BT)
        velocity = self.path.velocity(made.y, made.output, made.level)
        error_BT = (velocity - (made.fine - made.noise)).square().mean(1)
        return (error_BT * mask_BT).sum(), mask_BT.sum()

    def _guided(self, y_BDT: Tensor, level_B: Tensor, coarse_BDT: Tensor, asked: Blend, sampler: Sampler) -> Tensor:
        outputs = [self._output(y_BDT, level_B, coarse_BDT, prompt) for prompt in asked.prompts]
        plain = outputs[0]
        if len(outputs) > 1:
            plain = (torch.stack(outputs) * torch.stack(list(asked.weights))).sum(0)
        if sampler.guidance == 1.0 and sampler.coarse_guidance == 1.0:
            return plain
        without = self._output(y_BDT, level_B, coarse_BDT, asked.unasked)
        guided = without + sampler.guidance * (plain - without)
        if sampler.coarse_guidance != 1.0:
            assert self.null_coarse is not None
            nothing = self._output(y_BDT, level_B, self.null_coarse[:, None].expand_as(coarse_BDT), asked.unasked)
            guided = guided + (sampler.coarse_guidance - 1) * (without - nothing)
        return rescaled(guided, plain, sampler.rescale) if sampler.rescale else guided

    @torch.no_grad()
    def sample(
        self,
        coarse_BDT: Tensor,
        asked: Conditions | Blend,
        noise_BDT: Tensor,
        sampler: Sampler,
        known_BDT: Tensor | None = None,
        known_frames: int = 0,
        fresh: FreshNoise | None = None,
        known_trail: Sequence[Tensor] = (),
        trail: list[Tensor] | None = None,
    ) -> Tensor:
        """Fine latents [B, Df, T].

        Args:
            asked: controls are of these frames.
            noise_BDT: standard normal noise [B, Df, T].
            known_BDT, known_frames: finished latents [B, Df, known_frames] of the first frames, which are kept.
            fresh: more such noise, for the ancestral solver.
            known_trail: where these frames were each time the network looked, when they were made: there it meets them
                again, so that what follows fits as if all had been made together. Without it they come on a straight
                line from their noise, which no sample takes: what follows then sticks to them too closely.
            trail: is filled with what the network looks at, for the frames after these, when these are known.

        Raises:
            UserError: for guidance on coarse latents by a model that was always trained with them.
        """
        if sampler.coarse_guidance != 1.0 and self.null_coarse is None:
            raise UserError(
                f"generation.stage2_coarse_guidance={sampler.coarse_guidance:g} needs a model trained with "
                "stage2.coarse_null_probability above 0; set it to 1"
            )
        coarse = self._normalise("coarse", coarse_BDT)
        known = self._normalise("fine", known_BDT) if known_BDT is not None and known_frames else None
        if self.config.objective == "regression":
            sampler, noise_BDT = replace(sampler, steps=1, solver="euler"), torch.zeros_like(noise_BDT)
        unguided = replace(sampler, guidance=1.0, coarse_guidance=1.0)
        blend = asked if isinstance(asked, Blend) else Blend([asked], [], asked.as_null())
        looks = 0

        def pinned(y_BDT: Tensor, level: float) -> Tensor:
            if known is None:
                return y_BDT
            line_BDT = (1 - level) * noise_BDT[..., :known_frames] + level * known
            kept_BDT = known_trail[looks] if looks < len(known_trail) else line_BDT
            return torch.cat([kept_BDT, y_BDT[..., known_frames:]], dim=-1)

        def field(y_BDT: Tensor, level: float) -> Tensor:
            nonlocal looks
            y_BDT = pinned(y_BDT, level)
            looks += 1
            if trail is not None:
                trail.append(y_BDT)
            level_B = torch.full((len(y_BDT),), level, device=y_BDT.device)
            acting = sampler if level < sampler.guided_until else unguided
            output_BDT = self._guided(y_BDT, level_B, coarse, blend, acting)
            return self.path.velocity(y_BDT, output_BDT, level_B[:, None, None])

        levels = self.path.level(time_grid(sampler.steps, sampler.grid)).tolist()
        if sampler.solver == "ancestral":
            assert fresh is not None
            x_BDT = ancestral(field, noise_BDT, levels, fresh)
        else:
            x_BDT = SOLVERS[sampler.solver](field, noise_BDT, levels)
        if known is not None:
            x_BDT = torch.cat([known, x_BDT[..., known_frames:]], dim=-1)
        return x_BDT * self.get_buffer("fine_std")[:, None] + self.get_buffer("fine_mean")[:, None]

    def optimizer_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups as `parameter_groups` makes them."""
        return parameter_groups(self, lr, weight_decay)
