"""From noise to data along the common path of `paths.py`, in few steps.

euler      one evaluation a step, first order; on a v-prediction model's own times this is DDIM (arXiv 2010.02502)
heun       two evaluations a step, second order
ab2        two-step Adams-Bashforth: one evaluation a step, second order
ancestral  one evaluation a step and fresh noise after it: DDPM's own sampling (arXiv 2006.11239)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Field = Callable[[Tensor, float], Tensor]  # velocity at y and a level
FreshNoise = Callable[[int], Tensor]  # standard normal noise of y's shape, by number of the step


def time_grid(steps: int, name: str) -> Tensor:
    """Times [steps + 1] (fp64) from 0 to 1: evenly spaced, or swayed towards the noise, where the path bends most (sway
    sampling with coefficient -1, arXiv 2410.06885, section 3.3)."""
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return times if name == "uniform" else 1 - (times * math.pi / 2).cos()


def euler(field: Field, y: Tensor, levels: Sequence[float]) -> Tensor:
    for now, following in pairwise(levels):
        y = y + (following - now) * field(y, now)
    return y


def heun(field: Field, y: Tensor, levels: Sequence[float]) -> Tensor:
    for now, following in pairwise(levels):
        step, slope = following - now, field(y, now)
        y = y + step / 2 * (slope + field(y + step * slope, following))
    return y


def ab2(field: Field, y: Tensor, levels: Sequence[float]) -> Tensor:
    """Each step goes along a line through the last two slopes; the first, which has but one, is Euler's."""
    before: tuple[float, Tensor] | None = None
    for now, following in pairwise(levels):
        step, slope = following - now, field(y, now)
        if before is None:
            y = y + step * slope
        else:
            ratio = step / before[0] / 2
            y = y + step * ((1 + ratio) * slope - ratio * before[1])
        before = (step, slope)
    return y


def ancestral(field: Field, y: Tensor, levels: Sequence[float], fresh: FreshNoise) -> Tensor:
    """Data and noise are read off y, and the next y drawn given both (arXiv 2010.02502, equations 12 and 16, eta 1).
    Written for y / radius, whose parts alpha and sigma have squares that sum to one."""
    for index, (now, following) in enumerate(pairwise(levels)):
        velocity = field(y, now)
        fine, noise = y + (1 - now) * velocity, y - now * velocity
        radius = math.hypot(following, 1 - following)
        alpha, sigma = following / radius, (1 - following) / radius
        alpha_now, sigma_now = now / math.hypot(now, 1 - now), (1 - now) / math.hypot(now, 1 - now)
        drawn = sigma / sigma_now * math.sqrt(max(1 - (alpha_now / alpha) ** 2, 0))
        y = radius * (alpha * fine + math.sqrt(max(sigma**2 - drawn**2, 0)) * noise)
        if drawn:
            y = y + radius * drawn * fresh(index)
    return y


SOLVERS: dict[str, Callable[[Field, Tensor, Sequence[float]], Tensor]] = {"euler": euler, "heun": heun, "ab2": ab2}
