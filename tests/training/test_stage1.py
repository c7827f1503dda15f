from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ssmttm.config import Config
from ssmttm.model.delay import revert_delay
from ssmttm.model.lm import MusicLM
from ssmttm.training.order import Draw
from ssmttm.training.stage1 import Stage1Task

MakeConfig = Callable[..., Config]


def test_batch_holds_the_rows_codes_and_one_of_their_captions(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "stage1.null_probability=0"))
    draws = [Draw(0, 0), Draw(1, 0), Draw(2, 5)]
    batch = task.collate(draws)
    special = task.codec.codebook_size
    assert batch.count == sum(task.data.frames(draw.row) for draw in draws)
    assert int((batch.delayed_BKS != special).sum()) == batch.count
    for place, draw in enumerate(draws):
        codes = batch.delayed_BKS[place, 0]
        assert np.array_equal(codes[codes != special].numpy(), task.data.codes(draw.row)[0])
        states = batch.conditions["text"].states_BSD[place][batch.conditions["text"].mask_BS[place]].numpy()
        options = [task.data.text.states(key) for key in task.data.text_keys(draw.row)]
        assert any(o.shape == states.shape and np.array_equal(o.astype(np.float32), states) for o in options)


def test_draws_depend_on_sample_and_epoch_not_on_batch_mates(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "stage1.null_probability=0.5"))
    alone = task.collate([Draw(3, 1)])
    together = task.collate([Draw(0, 1), Draw(3, 1)])
    assert alone.conditions["text"].null_B[0] == together.conditions["text"].null_B[1]
    torch.testing.assert_close(alone.conditions["text"].pooled_BD[0], together.conditions["text"].pooled_BD[1])
    over_epochs = [task.collate([Draw(3, epoch)]) for epoch in range(40)]
    assert len({tuple(batch.conditions["text"].pooled_BD[0].tolist()) for batch in over_epochs}) == 3
    assert 8 <= sum(bool(batch.conditions["text"].null_B[0]) for batch in over_epochs) <= 32


def test_crops_are_stretches_of_the_row(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "stage1.crop_frames=6", "stage1.num_codebooks=2"))
    special, starts = task.codec.codebook_size, set()
    for epoch in range(8):
        batch = task.collate([Draw(0, epoch), Draw(1, epoch)])
        assert batch.count == 2 * 2 * 6 == int((batch.delayed_BKS != special).sum())
        whole_KT = task.data.codes(0)[:2].astype(np.int64)
        crop_KT = revert_delay(batch.delayed_BKS[:1])[0].numpy()
        found = [t for t in range(whole_KT.shape[1] - 5) if np.array_equal(whole_KT[:, t : t + 6], crop_KT)]
        assert found
        starts.add(found[0])
    assert len(starts) > 2


def test_loss_counts_only_frames(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "stage1.null_probability=0", "stage1.num_codebooks=2"))
    module = task.build().eval().requires_grad_(False)
    batches = [task.collate([Draw(row, 0)]) for row in range(3)]
    together = task.collate([Draw(row, 0) for row in range(3)])
    separate = sum(float(task.loss(module, batch)) for batch in batches)
    assert float(task.loss(module, together)) == pytest.approx(separate, rel=1e-4)
    assert together.count == sum(batch.count for batch in batches)
    assert separate / together.count == pytest.approx(np.log(task.codec.codebook_size), rel=0.2)  # untrained


def test_validation_conditions(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "train.validation_rows=6"))
    assert task.validation_variants(final=False) == ["own", "shuffled", "null"]
    rows = list(range(task.validation_rows))
    own, shuffled, null = (task.collate_validation(rows, variant) for variant in ("own", "shuffled", "null"))
    assert torch.equal(own.delayed_BKS, shuffled.delayed_BKS)
    assert not any(
        torch.equal(a, b)
        for a, b in zip(own.conditions["text"].pooled_BD, shuffled.conditions["text"].pooled_BD, strict=True)
    )
    assert null.conditions["text"].null_B.all()
    assert not own.conditions["text"].null_B.any()
    assert task.collate_validation(rows, "pooled_only").drop_prefix
    assert task.collate_validation(rows, "prefix_only").drop_pooled


def test_codebook_0_is_validated_by_itself(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1", "stage1.num_codebooks=2", "train.validation_rows=4"))
    assert task.validation_variants(final=False)[-1] == "first_codebook"
    module = task.build().eval().requires_grad_(False)
    rows = list(range(task.validation_rows))
    first, both = (task.collate_validation(rows, variant) for variant in ("first_codebook", "own"))
    assert 2 * first.count == both.count
    logits_BSV = module(first.delayed_BKS, first.conditions)[:, 0].log_softmax(-1)
    frames = [task.validation.frames(i) for i in rows]
    expected = -sum(
        float(logits_BSV[i, : frames[i]].gather(1, first.delayed_BKS[i, 0, : frames[i], None]).sum()) for i in rows
    )
    assert float(task.loss(module, first)) == pytest.approx(expected, rel=1e-4)
    assert float(task.loss(module, first)) < float(task.loss(module, both))


def test_statistics_of_the_text_are_built_in(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1"))
    module = task.build()
    assert isinstance(module, MusicLM)
    text = task.data.text
    states = np.concatenate([text.states(key) for key in list(text.keys())]).astype(np.float32)
    torch.testing.assert_close(
        module.get_buffer("inputs.text.text_mean"), torch.from_numpy(states.mean(0)), atol=1e-4, rtol=1e-3
    )


def test_samples_are_audio_of_the_prompts_length(make_config: MakeConfig) -> None:
    task = Stage1Task(make_config("stage1"))
    module = task.build().eval()
    (prompt, clip), second = task.sample(module, 2)
    assert prompt == "sound number 0, version 0"
    frames = max(task.validation.frames(i) for i in range(2))
    assert clip.samples.shape == (1, frames * task.codec.hop_length)
    assert np.isfinite(clip.samples).all()
    assert second[0] != prompt
