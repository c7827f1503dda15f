"""The way from noise to data: what a network is trained on, and how to read what it says.

Whatever an objective's own units, all else works on one path, where `level` in [0, 1] is the share of data:

    y = (1 - level) noise + level fine          velocity = fine - noise = dy / dlevel

Networks of different objectives look at the same thing where their levels are equal: they are the signal-to-noise
ratio, level / (1 - level). So solvers, kept frames and validation are the same for all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Path(ABC):
    """What one objective makes of the common path. All tensors broadcast."""

    @abstractmethod
    def level(self, t: Tensor) -> Tensor:
        """Level at the network's time t in [0, 1]: 0 at 0, 1 at 1."""

    @abstractmethod
    def time(self, level: Tensor) -> Tensor:
        """The network's time at a level: the inverse of `level`."""

    @abstractmethod
    def network_input(self, y: Tensor, level: Tensor) -> Tensor:
        """What the network is shown at y."""

    @abstractmethod
    def target(self, fine: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """What the network should say."""

    @abstractmethod
    def velocity(self, y: Tensor, output: Tensor, level: Tensor) -> Tensor:
        """`fine - noise` as the network's output has them."""


class FlowPath(Path):
    """Flow matching on straight lines (arXiv 2210.02747): the common path itself."""

    def level(self, t: Tensor) -> Tensor:
        return t

    def time(self, level: Tensor) -> Tensor:
        return level

    def network_input(self, y: Tensor, level: Tensor) -> Tensor:
        return y

    def target(self, fine: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        return fine - noise

    def velocity(self, y: Tensor, output: Tensor, level: Tensor) -> Tensor:
        return output


class CosinePath(Path):
    """v-prediction (arXiv 2202.00512): x = alpha fine + sigma noise with alpha^2 + sigma^2 = 1, v = alpha noise - sigma
    fine. The cosine schedule (arXiv 2102.09672) is taken in that paper's continuous form, alpha = cos((1 - t) pi / 2):
    an offset as for discrete steps would make the end endlessly steep, which costs solvers their order. At t = 0
    nothing of the data is left."""

    def level(self, t: Tensor) -> Tensor:
        angle = (1 - t) * (math.pi / 2)
        return angle.cos() / (angle.cos() + angle.sin())

    def time(self, level: Tensor) -> Tensor:
        return 1 - torch.atan2(1 - level, level) / (math.pi / 2)

    def network_input(self, y: Tensor, level: Tensor) -> Tensor:
        return y / self._radius(level)

    def target(self, fine: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = self._mix(level)
        return alpha * noise - sigma * fine

    def velocity(self, y: Tensor, output: Tensor, level: Tensor) -> Tensor:
        alpha, sigma = self._mix(level)
        x = self.network_input(y, level)
        return (alpha * x - sigma * output) - (sigma * x + alpha * output)

    @staticmethod
    def _radius(level: Tensor) -> Tensor:
        return torch.sqrt(level.square() + (1 - level).square())

    def _mix(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma."""
        radius = self._radius(level)
        return level / radius, (1 - level) / radius


def path_of(objective: str) -> Path:
    """The path of a `stage2.objective`; regression is flow matching at its very beginning, with noise zero."""
    return CosinePath() if objective == "v" else FlowPath()
