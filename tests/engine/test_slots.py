"""Slots against the slow, obvious way: each piece alone in a fixed batch, or one pass over all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from batches import doubled, piece_of
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import TEXT, V, decode, make_lm, prompts

from ssmttm.conditions.text import collate_text
from ssmttm.engine.piece import Piece
from ssmttm.engine.request import Sampling
from ssmttm.engine.slot_engine import SlotEngine
from ssmttm.engine.slots import AHEAD, NEVER, Rereading, SlotBatch
from ssmttm.errors import UserError
from ssmttm.model.delay import apply_delay
from ssmttm.model.lm import MusicLM
from ssmttm.model.slots import FixedRows, row_counts

TOKENS = 9
BACKBONES = ["prefix_simba", "prefix_mamba", "cross_simba", "prefix_transformer", "cross_transformer"]
SAMPLINGS = (Sampling(2.0, 0.9, 12), Sampling(1.0, 1.0, 0), Sampling(3.0, 0.7, 5, 0.8), Sampling(0.0, 0.0, 0))


def make_piece(number: int, frames: int) -> Piece:
    random = np.random.default_rng(number)
    text = random.standard_normal((1 + number % TOKENS, TEXT)).astype(np.float16)
    return piece_of(collate_text([text]), frames, number, SAMPLINGS[number % len(SAMPLINGS)])


def run(batch: SlotBatch, arrivals: list[tuple[int, Piece]]) -> list[np.ndarray]:
    """Codes [K, T] of each piece; it joins at its step, or as soon as a slot is free."""
    waiting = sorted(arrivals, key=lambda pair: pair[0])
    found: dict[int, list[np.ndarray]] = {id(piece): [] for _, piece in arrivals}
    step = 0
    while waiting or batch.members:
        ready = [pair for pair in waiting if pair[0] <= step][: batch.free]
        waiting = [pair for pair in waiting if pair not in ready]
        if ready:
            batch.join([piece for _, piece in ready])
        if batch.members:
            written = batch.step()
            done = []
            for member, codes, is_frame, is_last in zip(batch.members, *written, strict=True):
                if is_frame:
                    found[id(member.piece)].append(codes)
                if is_last:
                    done.append(member)
            batch.leave(done)
        step += 1
    assert batch.free == batch.slots
    return [np.stack(found[id(piece)], axis=1) for _, piece in arrivals]


def alone(lm: MusicLM, piece: Piece, rereading: Rereading = NEVER) -> np.ndarray:
    primer = None if piece.primer_KT is None else torch.from_numpy(piece.primer_KT)[None]
    sampling = piece.request.sampling
    return decode(lm, piece.conditions, [piece.seed], sampling, piece.frames, primer, rereading)[0].numpy()


@pytest.mark.parametrize("rereading", [NEVER, Rereading(5, 5)])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_batch_of_its_own_gives_what_each_piece_gives_alone(backbone: str, rereading: Rereading) -> None:
    """Guided and not; taken out in any portions."""
    lm, pieces = make_lm(3, backbone), [make_piece(number, 20) for number in range(4)]
    batch = SlotBatch.of(lm, pieces, rereading)
    codes_BKT = torch.cat([batch.read(frames) for frames in (1, 12, 7)], dim=2).numpy()
    for piece, codes_KT in zip(pieces, codes_BKT, strict=True):
        assert np.array_equal(codes_KT, alone(lm, piece, rereading))


def random_arrivals(seed: int, count: int) -> list[tuple[int, Piece]]:
    random = np.random.default_rng(seed)
    return [
        (int(random.integers(0, 30)), make_piece(int(random.integers(0, 1000)), int(random.integers(1, 25))))
        for _ in range(count)
    ]


@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_random_arrivals_give_what_each_request_gives_alone(backbone: str, num_codebooks: int) -> None:
    lm, arrivals = make_lm(num_codebooks, backbone), random_arrivals(0, 12)
    for (_, piece), codes in zip(arrivals, run(SlotBatch(lm, 5, TOKENS), arrivals), strict=True):
        assert np.array_equal(codes, alone(lm, piece))


@pytest.mark.parametrize(("every", "frames"), [(2, 3), (5, 5), (12, 3), (3, 8)])
@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize("backbone", ["prefix_simba", "cross_simba", "prefix_transformer"])
def test_what_is_read_again_is_the_same_in_slots(backbone: str, num_codebooks: int, every: int, frames: int) -> None:
    lm, arrivals = make_lm(num_codebooks, backbone), random_arrivals(2, 12)
    primer = np.random.default_rng(0).integers(0, V, (num_codebooks, 7))
    rereading = Rereading(every, frames)
    arrivals.append((3, replace(make_piece(5, 20), primer_KT=primer)))
    for (_, piece), codes in zip(arrivals, run(SlotBatch(lm, 5, TOKENS, False, rereading), arrivals), strict=True):
        assert np.array_equal(codes, alone(lm, piece, rereading))


@given(
    seed=st.integers(0, 2**32 - 1),
    slots=st.integers(1, 8),
    count=st.integers(1, 8),
    rereading=st.sampled_from([NEVER, NEVER, Rereading(1, 1), Rereading(4, 2), Rereading(2, 9)]),
)
@settings(max_examples=40, deadline=None)
def test_in_fixed_shapes_company_changes_no_bit(seed: int, slots: int, count: int, rereading: Rereading) -> None:
    """The logits too, which say more than the codes."""
    lm, arrivals = make_lm(), random_arrivals(seed, count)
    together = Recorder(lm, slots, deterministic=True, rereading=rereading)
    codes = run(together, arrivals)
    for (_, piece), mine in zip(arrivals, codes, strict=True):
        single = Recorder(lm, slots, deterministic=True, rereading=rereading)
        assert np.array_equal(run(single, [(0, piece)])[0], mine)
        assert torch.equal(single.logits_of(piece), together.logits_of(piece))


class Recorder(SlotBatch):
    """Keeps the guided logits of every piece."""

    def __init__(self, lm: MusicLM, slots: int, deterministic: bool = False, rereading: Rereading = NEVER):
        super().__init__(lm, slots, TOKENS, deterministic, rereading)
        self.seen: dict[int, list[torch.Tensor]] = {}

    def _step_rows(self) -> torch.Tensor:
        logits = super()._step_rows()
        for member, row in zip(self.members, logits, strict=True):
            self.seen.setdefault(id(member.piece), []).append(row.clone())
        return logits

    def logits_of(self, piece: Piece) -> torch.Tensor:
        return torch.stack(self.seen[id(piece)], dim=1)


@pytest.mark.parametrize("backbone", ["prefix_simba", "prefix_mamba", "cross_simba"])
def test_otherwise_logits_differ_by_rounding(backbone: str) -> None:
    """Bound: 1e-4 of the largest logit, against one pass over the whole in float64."""
    lm, arrivals = make_lm(3, backbone), random_arrivals(1, 12)
    batch = Recorder(lm, 8)
    codes = run(batch, arrivals)
    exact = make_lm(3, backbone).double()
    for (_, piece), mine in zip(arrivals, codes, strict=True):
        text = doubled(piece.conditions)
        delayed = apply_delay(torch.from_numpy(mine)[None], lm.special)
        with torch.no_grad():
            conditional, unconditional = exact(delayed, text)[0], exact(delayed, text.as_null())[0]
        expected = unconditional + piece.request.sampling.guidance * (conditional - unconditional)
        error = (batch.logits_of(piece) - expected).abs().max() / expected.abs().max()
        assert float(error) < 1e-4


@pytest.mark.parametrize("num_codebooks", [1, 3])
def test_a_primer_is_continued(num_codebooks: int) -> None:
    lm, piece = make_lm(num_codebooks), make_piece(4, 20)
    whole = alone(lm, piece)
    rest = replace(piece, frames=13, primer_KT=whole[:, :7])
    found = run(SlotBatch(lm, 3, TOKENS), [(0, make_piece(1, 30)), (2, rest), (4, make_piece(2, 3))])
    assert np.array_equal(found[1], whole[:, 7:])


def test_random_numbers_are_drawn_in_time() -> None:
    lm, piece = make_lm(3), make_piece(5, 2 * AHEAD + 7)
    assert np.array_equal(run(SlotBatch(lm, 1, TOKENS), [(0, piece)])[0], alone(lm, piece))


def test_whoever_leaves_early_takes_nothing_from_others() -> None:
    lm = make_lm()
    pieces = [make_piece(number, 30) for number in range(6)]
    batch = SlotBatch(lm, 6, TOKENS)
    members = batch.join(pieces)
    written = {id(member): [] for member in members}
    for step in range(30):
        for member, codes, *_ in zip(batch.members, *batch.step(), strict=True):
            written[id(member)].append(codes)
        if step in (3, 4, 11):
            batch.leave([batch.members[0], batch.members[-1]][: 1 + step % 2])
    for member in batch.members:
        assert np.array_equal(np.stack(written[id(member)], axis=1), alone(lm, member.piece))
    assert batch.free == 6 - len(batch.members) == 5


def test_limits_are_named() -> None:
    with pytest.raises(UserError, match="too few for 3 codebooks"):
        SlotBatch(make_lm(3), 2, TOKENS, False, Rereading(5, 2))
    batch = SlotBatch(make_lm(), 2, TOKENS)
    with pytest.raises(UserError, match="text of 10 tokens is over the limit of 9"):
        batch.check(piece_of(collate_text([np.zeros((10, TEXT), np.float16)]), 5))
    with pytest.raises(UserError, match="prefix_transformer remembers ever more"):
        SlotEngine(make_lm(backbone="prefix_transformer"), 2, TOKENS)


def test_few_numbers_of_rows_are_stepped() -> None:
    assert row_counts(1) == [1]
    assert row_counts(16) == [1, 2, 4, 8, 16]
    assert row_counts(12) == [1, 2, 4, 8, 12]
    assert FixedRows(make_lm(), 12, TOKENS).count_for(9) == 12
    assert FixedRows(make_lm(), 12, TOKENS, [12]).count_for(1) == 12
    rows = SlotBatch(make_lm(), 6, TOKENS, deterministic=True)._rows
    assert rows.count_for(1) == 16  # whole tiles


@torch.inference_mode()
def test_rows_hold_what_was_put_and_moved() -> None:
    lm, text = make_lm(), prompts((3, 5))
    rows = FixedRows(lm, 4, TOKENS)
    rows.put(3, rows.read(text), 1)
    rows.put_null(0)
    rows.move(3, 1)
    tokens = torch.full((2, 1), lm.special)
    _, state = lm.prefill(text)
    null, _ = lm.prefill(text.as_null())
    logits = rows.step(tokens)
    torch.testing.assert_close(logits, torch.stack([null[0], lm.prefill(text)[0][1]]), rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, 1, V)
    following = rows.step(tokens)[1:]
    torch.testing.assert_close(following, lm.step(tokens, state)[0][1:], rtol=1e-4, atol=1e-5)


def test_rows_that_disagree_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = make_lm()
    batch, step = SlotBatch(lm, 2, TOKENS, deterministic=True), lm.step
    batch.warm_up(compiled=False)

    def uneven(*inputs: object) -> tuple:
        logits, state = step(*inputs)
        return torch.cat([logits[:-1], logits[-1:] * (1 + 1e-6)]), state

    monkeypatch.setattr(lm, "step", uneven)
    with pytest.raises(ArithmeticError, match="which of 8 rows"):
        batch.warm_up(compiled=False)


@pytest.mark.gpu
@pytest.mark.parametrize("backbone", ["prefix_simba", "cross_simba"])
def test_graphs_of_rows_give_what_single_steps_give(backbone: str) -> None:
    lm, arrivals = make_lm(backbone=backbone).cuda(), random_arrivals(2, 8)
    batch = Recorder(lm, 5)
    assert batch.warm_up(compiled=False)
    codes = run(batch, arrivals)
    plain = Recorder(lm, 5)
    for (_, piece), mine, expected in zip(arrivals, codes, run(plain, arrivals), strict=True):
        assert np.array_equal(mine, expected)
        torch.testing.assert_close(batch.logits_of(piece), plain.logits_of(piece), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("deterministic", [False, True])
def test_compiled_rows_give_what_eager_ones_give(deterministic: bool) -> None:
    lm, arrivals = make_lm(), random_arrivals(3, 8)
    plain = Recorder(lm, 2)
    expected = run(plain, arrivals)
    batch = Recorder(lm, 2, deterministic)
    assert batch.warm_up(compiled=True)
    for (_, piece), mine, other in zip(arrivals, run(batch, arrivals), expected, strict=True):
        assert np.array_equal(mine, other)
        torch.testing.assert_close(batch.logits_of(piece), plain.logits_of(piece), rtol=1e-4, atol=1e-4)
