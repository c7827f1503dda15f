"""Paths and solvers where everything is known: Gaussian data, whose velocity is linear and whose end is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssmttm.model.paths import CosinePath, FlowPath, Path
from ssmttm.model.solvers import SOLVERS, ancestral, time_grid

MEAN, DEVIATION = 0.7, 0.4
PATHS = {"flow": FlowPath(), "v": CosinePath()}


def gaussian_velocity(y: Tensor, level: float) -> Tensor:
    """E[fine - noise | y] for fine ~ N(MEAN, DEVIATION^2)."""
    variance = (1 - level) ** 2 + (level * DEVIATION) ** 2
    away = y - level * MEAN
    return MEAN + (level * DEVIATION**2 - (1 - level)) / variance * away


def exact_end(noise: Tensor) -> Tensor:
    """Where the flow takes noise: Gaussians stay Gaussian, each point at its own quantile."""
    return MEAN + DEVIATION * noise


def error_of(solver: str, steps: int, path: Path, grid: str) -> float:
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    levels = path.level(time_grid(steps, grid)).tolist()
    return float((SOLVERS[solver](gaussian_velocity, noise, levels) - exact_end(noise)).abs().max())


@pytest.mark.parametrize("grid", ["uniform", "sway"])
@pytest.mark.parametrize("objective", PATHS)
@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("ab2", 2)])
def test_solvers_converge_with_their_order(solver: str, order: int, objective: str, grid: str) -> None:
    coarse, fine = (error_of(solver, steps, PATHS[objective], grid) for steps in (512, 1024))
    assert np.log2(coarse / fine) == pytest.approx(order, abs=0.15)
    assert fine < 0.01


def test_second_order_pays_at_few_evaluations() -> None:
    """At eight evaluations: ab2 takes eight steps, heun four."""
    path = PATHS["flow"]
    assert error_of("ab2", 8, path, "uniform") < 0.5 * error_of("euler", 8, path, "uniform")


def test_ancestral_sampling_draws_from_the_data() -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.randn(20_000, generator=g, dtype=torch.float64)
    for path, tolerance in ((PATHS["v"], 0.01), (PATHS["flow"], 0.02)):
        levels = path.level(time_grid(200, "uniform")).tolist()
        drawn = ancestral(
            gaussian_velocity, noise, levels, lambda _: torch.randn(len(noise), generator=g, dtype=torch.float64)
        )
        assert float(drawn.mean()) == pytest.approx(MEAN, abs=tolerance)
        assert float(drawn.std()) == pytest.approx(DEVIATION, abs=tolerance)
        # Fresh noise took the place of the first.
        assert abs(float(torch.corrcoef(torch.stack([noise, drawn]))[0, 1])) < 0.2


def test_euler_on_the_cosine_path_is_ddim() -> None:
    """The update of arXiv 2010.02502, equation 12 with eta 0, in its own coordinates."""
    path, schedule = PATHS["v"], time_grid(7, "uniform")
    alphas = torch.cos((1 - schedule) * np.pi / 2)
    levels = path.level(schedule)
    x = noise = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for now, following in zip(range(7), range(1, 8), strict=True):
        alpha, sigma = alphas[now], (1 - alphas[now] ** 2).sqrt()
        y = x / (alpha + sigma)
        velocity = gaussian_velocity(y, float(levels[now]))
        fine, eps = y + (1 - levels[now]) * velocity, y - levels[now] * velocity
        x = alphas[following] * fine + (1 - alphas[following] ** 2).clamp(min=0).sqrt() * eps
    solved = SOLVERS["euler"](gaussian_velocity, noise, levels.tolist())
    torch.testing.assert_close(solved, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("objective", PATHS)
def test_paths_hang_together(objective: str) -> None:
    """Time and level invert one another, begin and end where they should, and a perfect output is read as the true
    velocity."""
    path = PATHS[objective]
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    level = path.level(t)
    assert float(level[0]) == pytest.approx(0, abs=1e-12)
    assert float(level[-1]) == pytest.approx(1, abs=1e-12)
    assert (level.diff() > 0).all()
    torch.testing.assert_close(path.time(level), t, atol=1e-6, rtol=0)
    fine, noise = torch.randn(21, dtype=torch.float64), torch.randn(21, dtype=torch.float64)
    y = (1 - level) * noise + level * fine
    torch.testing.assert_close(path.velocity(y, path.target(fine, noise, level), level), fine - noise)


def test_v_prediction_is_written_as_in_its_paper() -> None:
    path = PATHS["v"]
    t = torch.tensor([0.0, 0.25, 0.6, 0.95], dtype=torch.float64)
    alpha, sigma = torch.cos((1 - t) * np.pi / 2), torch.sin((1 - t) * np.pi / 2)
    fine, noise, level = torch.randn(4).double(), torch.randn(4).double(), path.level(t)
    y = (1 - level) * noise + level * fine
    torch.testing.assert_close(path.network_input(y, level), alpha * fine + sigma * noise)
    torch.testing.assert_close(path.target(fine, noise, level), alpha * noise - sigma * fine)


def test_grids_go_from_noise_to_data() -> None:
    for name in ("uniform", "sway"):
        grid = time_grid(5, name)
        assert len(grid) == 6
        assert (float(grid[0]), float(grid[-1])) == pytest.approx((0, 1))
    assert (time_grid(5, "sway") <= time_grid(5, "uniform") + 1e-12).all()
