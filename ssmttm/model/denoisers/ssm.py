"""A diffusion Transformer whose attention is replaced by Mamba-2, run both ways in time: cost grows with the length,
not its square.

Shapes: B batch, T frames, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from ssmttm.config import Stage2Config
from ssmttm.model.denoisers.common import check_heads
from ssmttm.model.denoisers.transformer import TransformerDenoiser
from ssmttm.model.mixers.mamba2 import Mamba2


class BidirectionalMamba2(nn.Module):
    """The sum of one mixer that reads forwards and another that reads backwards (as arXiv 2401.09417, whose two
    directions have convolutions and state spaces of their own).

    Weights shared by both would make every block blind to the direction of time, and in music attacks are not decays.
    Each mixer expands by 1: the two together are as large and as costly as one of the usual 2.
    """

    def __init__(self, config: Stage2Config):
        super().__init__()
        self.forwards, self.backwards = (
            Mamba2(config.width, config.state_size, config.head_dim, expand=1) for _ in range(2)
        )

    def forward(self, x_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        # Read backwards, a row begins with its padding, which leaves the state at zero.
        past_BTD, _ = self.forwards(x_BTD, mask_BL=mask_BT)
        future_BTD, _ = self.backwards(x_BTD.flip(1), mask_BL=None if mask_BT is None else mask_BT.flip(1))
        return past_BTD + future_BTD.flip(1)


class SSMDenoiser(TransformerDenoiser):
    """`AdaptiveBlock`s with bidirectional Mamba-2."""

    @classmethod
    def check(cls, config: Stage2Config) -> None:
        check_heads(config)

    @staticmethod
    def mixer(config: Stage2Config) -> nn.Module:
        return BidirectionalMamba2(config)
