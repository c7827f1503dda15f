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
    assert task.collate_validation([0, 1], "null@0.3").text.null_B.all()
    losses = {variant: float(i) for i, variant in enumerate(task.validation_variants(final=True))}
    figures = task.summarise_validation(losses)
    assert figures["own"] == 2.0
    assert figures["null"] == 7.0
    assert set(figures) == {"own", "null", *(f"t{t}" for t in VALIDATION_TIMES)}


def test_samples_are_audio_of_the_rows_length(make_config: MakeConfig) -> None:
    task = Stage2Task(make_config("stage2"))
    ((prompt, clip),) = task.sample(task.build().eval(), 1)
    assert prompt == "sound number 0, version 0"
    assert clip.samples.shape == (1, task.validation.frames(0) * task.codec.hop_length)
