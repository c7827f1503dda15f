"""Stage 2: flow matching (arXiv 2210.02747) from noise to the fine latents, given the coarse ones and the text.

    x_t = (1 - t) noise + t fine          velocity = fine - noise          t in [0, 1]

Latents enter and leave in the codec's units; inside they have zero mean and unit variance per dimension.
Shapes: B batch, T frames, D latent dimensions (Df fine, Dc coarse).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ssmttm.config import Stage2Config
from ssmttm.model.denoiser import build_denoiser
from ssmttm.model.lm import parameter_groups
from ssmttm.model.text import TextBatch, TextStatistics


class LatentCompleter(nn.Module):
    """A denoiser with the normalisation of its latents and text, the training loss and the sampler."""

    def __init__(self, config: Stage2Config, fine_dim: int, coarse_dim: int, text_dim: int):
        super().__init__()
        self.config, self.fine_dim, self.coarse_dim, self.text_dim = config, fine_dim, coarse_dim, text_dim
        self.denoiser = build_denoiser(config, fine_dim, coarse_dim, text_dim)
        for name, dim in (("fine", fine_dim), ("coarse", coarse_dim), ("pooled", text_dim)):
            self.register_buffer(f"{name}_mean", torch.zeros(dim))
            self.register_buffer(f"{name}_std", torch.ones(dim))

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
        self.get_buffer("pooled_mean").copy_(statistics.pooled_mean)
        self.get_buffer("pooled_std").copy_(statistics.pooled_std)

    def _normalise(self, name: str, latents_BDT: Tensor) -> Tensor:
        mean, std = self.get_buffer(f"{name}_mean"), self.get_buffer(f"{name}_std")
        return (latents_BDT - mean[:, None]) / std[:, None]

    def _velocity(
        self, x_BDT: Tensor, t_B: Tensor, coarse_BDT: Tensor, text: TextBatch, mask_BT: Tensor | None = None
    ) -> Tensor:
        pooled_BD = (text.pooled_BD - self.get_buffer("pooled_mean")) / self.get_buffer("pooled_std")
        return self.denoiser(x_BDT, t_B, coarse_BDT, pooled_BD, text.null_B, mask_BT)

    def loss(
        self, fine_BDT: Tensor, coarse_BDT: Tensor, text: TextBatch, t_B: Tensor, noise_BDT: Tensor, mask_BT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Squared velocity error, averaged over dimensions and summed over valid frames; and their number.

        Args:
            mask_BT: True on valid frames.
        """
        valid_B1T = mask_BT[:, None]
        fine = self._normalise("fine", fine_BDT) * valid_B1T
        coarse = self._normalise("coarse", coarse_BDT) * valid_B1T
        noise = noise_BDT * valid_B1T
        t_B11 = t_B[:, None, None]
        predicted = self._velocity((1 - t_B11) * noise + t_B11 * fine, t_B, coarse, text, mask_BT)
        error_BT = (predicted.float() - (fine - noise)).square().mean(1)
        return (error_BT * mask_BT).sum(), mask_BT.sum()

    @torch.no_grad()
    def sample(
        self,
        coarse_BDT: Tensor,
        text: TextBatch,
        noise_BDT: Tensor,
        steps: int,
        guidance: float = 1.0,
        known_BDT: Tensor | None = None,
        known_frames: int = 0,
        known_trail: Sequence[Tensor] = (),
        trail: list[Tensor] | None = None,
    ) -> Tensor:
        """Fine latents [B, Df, T] by Euler's method over a uniform time grid.

        Args:
            noise_BDT: standard normal noise [B, Df, T].
            guidance: classifier-free guidance on the text; 1 uses the text alone, without a second pass.
            known_BDT, known_frames: finished latents [B, Df, known_frames] of the first frames, which are kept.
            known_trail: where these frames were each time the network looked, when they were made: there it meets them
                again, so that what follows fits as if all had been made together. Without it they come on a straight
                line from their noise, which no sample takes: what follows then sticks to them too closely.
            trail: is filled with what the network looks at, for the frames after these, when these are known.
        """
        coarse = self._normalise("coarse", coarse_BDT)
        known = None if known_BDT is None or not known_frames else self._normalise("fine", known_BDT)

        def pinned(x_BDT: Tensor, time: float, look: int) -> Tensor:
            if known is None:
                return x_BDT
            line_BDT = (1 - time) * noise_BDT[..., :known_frames] + time * known
            kept_BDT = known_trail[look] if look < len(known_trail) else line_BDT
            return torch.cat([kept_BDT, x_BDT[..., known_frames:]], dim=-1)

        x_BDT = noise_BDT
        times = torch.linspace(0, 1, steps + 1).tolist()
        for look, (now, following) in enumerate(pairwise(times)):
            x_BDT = pinned(x_BDT, now, look)
            if trail is not None:
                trail.append(x_BDT)
            t_B = torch.full((x_BDT.shape[0],), now, device=x_BDT.device)
            velocity = self._velocity(x_BDT, t_B, coarse, text)
            if guidance != 1.0:
                unconditional = self._velocity(x_BDT, t_B, coarse, text.as_null())
                velocity = unconditional + guidance * (velocity - unconditional)
            x_BDT = x_BDT + (following - now) * velocity
        x_BDT = pinned(x_BDT, 1.0, steps)
        return x_BDT * self.get_buffer("fine_std")[:, None] + self.get_buffer("fine_mean")[:, None]

    def optimizer_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups as `parameter_groups` makes them."""
        return parameter_groups(self, lr, weight_decay)
