"""Recurrent decoding against the slow, obvious way: the full forward pass over everything drawn so far."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference_decoder import Decoder

from ssmttm.conditions.base import Conditions
from ssmttm.conditions.text import collate_text
from ssmttm.config import Stage1Config
from ssmttm.engine.request import Sampling
from ssmttm.engine.sampling import frame_uniforms, guide, sample
from ssmttm.engine.slots import NEVER, Rereading
from ssmttm.errors import UserError
from ssmttm.model.delay import apply_delay
from ssmttm.model.lm import MusicLM

V, TEXT = 24, 6


def make_lm(num_codebooks: int = 1, backbone: str = "prefix_simba") -> MusicLM:
    torch.manual_seed(0)
    config = Stage1Config.model_validate(
        {"backbone": backbone, "width": 32, "layers": 2, "state_size": 8, "head_dim": 16, "chunk_size": 8}
        | {"num_codebooks": num_codebooks, "codebook_features": False, "dropout": 0.1}
    )
    lm = MusicLM(config, V, {"text": TEXT}).eval()
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return lm


def prompts(lengths: tuple[int, ...]) -> Conditions:
    random = np.random.default_rng(1)
    return collate_text([random.standard_normal((length, TEXT)).astype(np.float16) for length in lengths])


def decode(
    lm: MusicLM,
    text: Conditions,
    seeds: list[int],
    sampling: Sampling,
    frames: int,
    primer: torch.Tensor | None = None,
    rereading: Rereading = NEVER,
) -> torch.Tensor:
    return torch.stack(list(Decoder(lm, text, seeds, sampling, rereading).frames(frames, primer)), dim=2)


@torch.inference_mode()
def decode_slowly(
    lm: MusicLM, text: Conditions, seed: int, sampling: Sampling, frames: int, rereading: Rereading = NEVER
) -> torch.Tensor:
    codes = torch.zeros(1, lm.config.num_codebooks, frames, dtype=torch.int64)
    K = lm.config.num_codebooks
    for step in range(frames + K - 1):
        due = [begun for begun in range(step + 1) if rereading.is_due(begun)]
        first = due[-1] - rereading.frames if due else 0
        delayed, place = apply_delay(codes[..., first:], lm.special), step - first
        logits = guide(lm(delayed, text)[:, :, place], lm(delayed, text.as_null())[:, :, place], sampling.guidance)
        for k in range(K):
            if 0 <= step - k < frames:
                uniform = torch.tensor([[frame_uniforms(seed, step - k, K)[k]]]).double()
                codes[:, k, step - k] = sample(logits[:, k : k + 1], uniform, sampling)[:, 0]
    return codes


@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize("backbone", ["prefix_simba", "prefix_transformer"])
def test_recurrent_decoding_equals_full_passes(num_codebooks: int, backbone: str) -> None:
    lm, text, sampling = make_lm(num_codebooks, backbone), prompts((5,)), Sampling(2.0, 0.9, 12)
    assert torch.equal(decode(lm, text, [3], sampling, 10), decode_slowly(lm, text, 3, sampling, 10))


@pytest.mark.parametrize(
    ("num_codebooks", "every", "frames"), [(1, 4, 4), (1, 1, 1), (1, 7, 2), (1, 2, 3), (3, 5, 5), (3, 2, 3), (3, 6, 3)]
)
@pytest.mark.parametrize("backbone", ["prefix_simba", "cross_simba", "prefix_transformer"])
def test_what_is_read_again_equals_full_passes_from_there(
    num_codebooks: int, every: int, frames: int, backbone: str
) -> None:
    lm, text, sampling = make_lm(num_codebooks, backbone), prompts((5,)), Sampling(2.0, 0.9, 12)
    rereading = Rereading(every, frames)
    found = decode(lm, text, [3], sampling, 20, rereading=rereading)
    assert torch.equal(found, decode_slowly(lm, text, 3, sampling, 20, rereading))
    assert not torch.equal(found, decode(lm, text, [3], sampling, 20))


def test_too_few_frames_to_read_again_are_an_error() -> None:
    with pytest.raises(UserError, match="reread_frames=2 are too few for 3 codebooks"):
        Decoder(make_lm(3), prompts((5,)), [0], Sampling(1.0, 1.0, 0), Rereading(5, 2))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_batch_mates_change_nothing(guidance: float) -> None:
    lm, sampling = make_lm(), Sampling(guidance, 1.0, 0)
    together = decode(lm, prompts((3, 7, 5)), [1, 2, 3], sampling, 12)
    text = prompts((3, 7, 5))
    for row in range(3):
        alone = decode(lm, text.rows([row]), [row + 1], sampling, 12)
        assert torch.equal(together[row : row + 1], alone)


def test_guidance_one_skips_the_unconditional_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, rows = make_lm(), []
    read = lm.read
    monkeypatch.setattr(lm, "read", lambda tokens, *rest: (rows.append(len(tokens)), read(tokens, *rest))[1])
    plain = decode(lm, prompts((4,)), [0], Sampling(1.0, 1.0, 0), 6)
    nearly = decode(lm, prompts((4,)), [0], Sampling(1.0 + 1e-7, 1.0, 0), 6)
    assert rows[:6] == [1] * 6
    assert rows[6:] == [2] * 6
    assert torch.equal(plain, nearly)


@pytest.mark.parametrize("rereading", [NEVER, Rereading(3, 3)])
@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_a_primer_continues_the_same_piece(num_codebooks: int, rereading: Rereading) -> None:
    lm, text, sampling = make_lm(num_codebooks), prompts((4,)), Sampling(1.5, 1.0, 0)
    whole = decode(lm, text, [5], sampling, 12, rereading=rereading)
    assert torch.equal(whole[:, :, 7:], decode(lm, text, [5], sampling, 5, whole[:, :, :7], rereading))


def test_prompt_and_seed_both_matter() -> None:
    lm, sampling = make_lm(), Sampling(2.0, 1.0, 0)
    text = prompts((4, 4))
    first, second = decode(lm, text, [1, 1], sampling, 20)
    assert not torch.equal(first, second)
    assert not torch.equal(decode(lm, text, [1, 1], sampling, 20), decode(lm, text, [2, 2], sampling, 20))


def test_frames_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, calls = make_lm(), []
    step = lm.step
    monkeypatch.setattr(lm, "step", lambda *inputs: (calls.append(1), step(*inputs))[1])
    frames = Decoder(lm, prompts((4,)), [0], Sampling(1.0, 1.0, 0)).frames(100)
    next(frames)
    next(frames)
    assert len(calls) <= 3
