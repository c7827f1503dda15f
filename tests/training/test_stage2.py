from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssmttm.config import Config
from ssmttm.model.diffusion import LatentCompleter
from ssmttm.training.order import Draw
from ssmttm.training.stage2 import VALIDATION_TIMES, Stage2Task

MakeConfig = Callable[..., Config]


def test_batch_holds_latents_padded_at_the_end(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    draws = [Draw(row, 0) for row in range(3)]
    batch = task.collate(draws)
    assert batch.count == int(batch.mask_BT.sum()) == sum(map(task.count, draws))
    for place, draw in enumerate(draws):
        length = task.data.frames(draw.row)
        fine = torch.from_numpy(task.data.fine(draw.row).astype(np.float32))
        torch.testing.assert_close(batch.fine_BDT[place, :, :length], fine)
        coarse = task.codec.coarse(torch.from_numpy(task.data.codes(draw.row)[:1].astype(np.int64)))[0]
        torch.testing.assert_close(batch.coarse_BDT[place, :, :length], coarse)
        assert batch.mask_BT[place].tolist() == [t < length for t in range(batch.mask_BT.shape[1])]


def test_time_and_noise_are_the_samples_own(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    alone, together = task.collate([Draw(4, 2)]), task.collate([Draw(0, 2), Draw(4, 2)])
    length = task.data.frames(4)
    assert alone.t_B[0] == together.t_B[1]
    assert torch.equal(alone.noise_BDT[0], together.noise_BDT[1, :, :length])
    assert task.collate([Draw(4, 3)]).t_B[0] != alone.t_B[0]


def test_crops_keep_codes_and_latents_together(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2", "stage2.crop_frames=6"))
    batch = task.collate([Draw(row, 0) for row in range(4)])
    assert batch.count == 24
    codes0 = torch.cdist(batch.coarse_BDT[0].T, torch.from_numpy(task._coarse_table)).argmin(1)
    assert (codes0.diff() % task.codec.codebook_size == 1).all()  # synthetic codes count upwards


def test_loss_of_a_batch_is_the_sum_of_its_rows(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    module = task.build().eval().requires_grad_(False)
    separate = sum(float(task.loss(module, task.collate([Draw(row, 0)]))) for row in range(3))
    together = float(task.loss(module, task.collate([Draw(row, 0) for row in range(3)])))
    assert together == pytest.approx(separate, rel=1e-4)


def test_latents_are_normalised_by_the_shards(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    module = task.build()
    assert isinstance(module, LatentCompleter)
    fine = np.concatenate([task.data.fine(i) for i in range(len(task.data))], axis=1).astype(np.float32)
    torch.testing.assert_close(module.get_buffer("fine_mean"), torch.from_numpy(fine.mean(1)), atol=1e-3, rtol=1e-3)


def test_validation_is_the_same_each_time_and_reports_every_time(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    first, again = (task.collate_validation([0, 1], "own@0.3") for _ in range(2))
    assert torch.equal(first.noise_BDT, again.noise_BDT)
    assert first.t_B.tolist() == pytest.approx([0.3, 0.3])
    assert task.collate_validation([0, 1], "null@0.3").conditions["text"].null_B.all()
    losses = {variant: float(i) for i, variant in enumerate(task.validation_variants(final=True))}
    figures = task.summarise_validation(losses)
    assert figures["own"] == 2.0
    assert figures["null"] == 7.0
    assert set(figures) == {"own", "null", *(f"t{t}" for t in VALIDATION_TIMES)}


def test_validation_is_squared_error_whatever_is_trained(make_config: MakeConfig) -> None:
    """At equal levels, so that runs of different losses compare."""
    squared, absolute = (Stage2Task(make_config("stage2", f"stage2.loss={loss}")) for loss in ("l2", "l1"))
    module = squared.build().eval()
    assert isinstance(module, LatentCompleter)
    torch.nn.init.normal_(module.denoiser.output.weight)
    other = absolute.build().eval()
    other.load_state_dict(module.state_dict())
    draws = [Draw(row, 0) for row in range(3)]
    with torch.no_grad():
        losses = [float(task.loss(m, task.collate(draws))) for task, m in ((squared, module), (absolute, other))]
        measured = [
            float(task.loss(m, task.collate_validation([0, 1], "own@0.3")))
            for task, m in ((squared, module), (absolute, other))
        ]
    assert losses[0] != pytest.approx(losses[1], rel=0.01)
    assert measured[0] == pytest.approx(measured[1])
    assert (squared.unit, absolute.unit) == ("squared error/frame", "absolute error/frame")


def test_coarse_latents_are_dropped_by_a_draw_of_their_own(make_config: MakeConfig) -> None:
    """Of each sample and epoch; and it changes none of the other draws."""
    draws = [Draw(row, epoch) for row in range(30) for epoch in range(3)]
    never, often = (
        Stage2Task(make_config("stage2", f"stage2.coarse_null_probability={p}")).collate(draws) for p in (0, 0.3)
    )
    assert not never.coarse_null_B.any()
    assert 0.15 < float(often.coarse_null_B.float().mean()) < 0.45
    assert torch.equal(never.t_B, often.t_B)
    assert torch.equal(never.noise_BDT, often.noise_BDT)
    assert torch.equal(never.conditions["text"].null_B, often.conditions["text"].null_B)
    assert not torch.equal(often.coarse_null_B, often.conditions["text"].null_B)


@pytest.mark.parametrize("denoiser", ["unet", "transformer", "ssm"])
@pytest.mark.parametrize("objective", ["flow", "v", "regression"])
def test_every_kind_of_model_trains_and_sounds(make_config: MakeConfig, denoiser: str, objective: str) -> None:
    changes = [f"stage2.denoiser={denoiser}", f"stage2.objective={objective}", "stage2.loss=l1"]
    more = ["stage2.cross_attention=true", "stage2.coarse_null_probability=0.1", "generation.solver=ancestral"]
    task = Stage2Task(make_config("stage2", *changes, *more))
    module = task.build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        batch = task.collate([Draw(row, 0) for row in range(6)])
        loss = task.loss(module, batch) / batch.count
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.97 * losses[0]
    ((_, clip),) = task.sample(module.eval(), 1)
    assert np.isfinite(clip.samples).all()


def test_samples_are_audio_of_the_rows_length(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    ((prompt, clip),) = task.sample(task.build().eval(), 1)
    assert prompt == "sound number 0, version 0"
    assert clip.samples.shape == (1, task.validation.frames(0) * task.codec.hop_length)
