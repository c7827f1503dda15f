"""What training costs, and the peaks it is held against."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ssmttm.config import Config
from ssmttm.model import costs
from ssmttm.model.denoisers.registry import DENOISERS
from ssmttm.model.mixers.registry import BACKBONES
from ssmttm.training import progress
from ssmttm.training.launch import make_task
from ssmttm.training.order import Draw
from ssmttm.training.progress import peak_flops

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H200 MIG 1g.18gb", None),
        ("NVIDIA L40", None),
    ],
)
def test_peaks_by_name(monkeypatch: pytest.MonkeyPatch, name: str, teraflops: float | None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda")) == (teraflops and teraflops * 1e12)
    assert peak_flops(torch.device("cpu")) is None


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        *(("stage1", [f"stage1.backbone={name}"]) for name in sorted(BACKBONES)),
        ("stage1", ["stage1.num_codebooks=2"]),
        ("stage2", []),
        *(("stage2", [f"stage2.denoiser={name}", "stage2.cross_attention=true"]) for name in DENOISERS),
    ],
)
def test_a_token_costs_what_one_sample_is_counted_at(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, stage: str, changes: list[str]
) -> None:
    """Held against torch's counter over a real training sample, forward and backward, within 3 %."""
    task = make_task(stage, make_config(stage, *changes))
    module, batch = task.build(), task.collate([Draw(0, 0)])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.loss(module, batch).backward()
    frames = batch.count / (task.config.stage1.num_codebooks if stage == "stage1" else 1)
    monkeypatch.setattr(costs, "TEXT_TOKENS", batch.conditions["text"].states_BSD.shape[1])
    estimate = progress.flops_per_token(task.config, stage, task.data.info, frames)
    assert estimate == pytest.approx(counter.get_total_flops() / batch.count, rel=0.03)


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_tasks_tokens_cost_as_rows_of_mean_length(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    task = make_task(stage, make_config(stage))
    mean = sum(task.count(Draw(row, 0)) for row in range(len(task.data))) / len(task.data)
    assert task.flops() == progress.flops_per_token(task.config, stage, task.data.info, mean)


def test_attention_is_counted(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "TEXT_TOKENS", 1)
    config = make_config("stage1", "stage1.backbone=cross_transformer")
    dataset = make_task("stage1", config).data.info
    short, long = (progress.flops_per_token(config, "stage1", dataset, frames) for frames in (64, 1064))
    # Queries with keys, and weights with values: forward, and twice that backward.
    expected = 1000 * 4 * config.stage1.width * config.stage1.layers * 3
    assert long - short == pytest.approx(expected, rel=0.05)


def test_the_progress_line_shows_utilisation_where_the_peak_is_known(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Engine:
        device, world_size, figures = torch.device("cpu"), 2, ("loss_judges",)

    task = make_task("stage1", make_config("stage1"))
    row = {
        "step": 10,
        "loss": 1.0,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "loss_judges": 0.25,
        "loader_wait": 0.0,
        "save_wait": 0.0,
    }

    def shown() -> tuple[dict[str, float], str]:
        done = progress.Progress()
        line = progress.ProgressLine(task, Engine(), done)
        done.step, done.tokens = 10, 5000
        return line.show(row, 50), capsys.readouterr().out

    figures, printed = shown()
    assert "mfu" not in figures
    assert "mfu" not in printed
    assert figures["peak_memory_gb"] > 0.01
    assert "tokens/s" in printed
    assert "eta " in printed
    assert "loss 1.0000  judges 0.250  lr" in printed
    monkeypatch.setattr(progress, "peak_flops", lambda _: 1e12)
    figures, printed = shown()
    assert figures["mfu"] == pytest.approx(task.flops() * figures["tokens_per_s"] / 2e12)
    assert "mfu " in printed
