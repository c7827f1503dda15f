"""Conditions: a batch that is handed on, cut, stacked and dropped without anybody looking inside."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.conditions.base import Conditions, ControlInput, FrameControl, InputLayers
from ssmttm.conditions.text import token_states
from ssmttm.errors import UserError
from ssmttm.registry import Registry

UNKNOWN = np.nan


def control(*rows: list[float]) -> FrameControl:
    return FrameControl.of([np.array([row], np.float32) for row in rows])


def asked(lengths: list[int], seed: int = 0) -> Conditions:
    """Text of unequal lengths, and one control of unequal lengths with holes."""
    rng = np.random.default_rng(seed)
    rows = [np.where(rng.random((1, length)) < 0.3, UNKNOWN, rng.normal(size=(1, length))) for length in lengths]
    states = [rng.normal(size=(1 + length % 3, 4)).astype(np.float16) for length in lengths]
    return Conditions({"text": token_states(states), "height": FrameControl.of(rows)})


def equal(one: Conditions, other: Conditions) -> bool:
    def tensors(conditions: Conditions) -> list[torch.Tensor]:
        return [tensor for name in conditions for tensor in vars(conditions[name]).values()]

    return list(one) == list(other) and all(map(torch.equal, tensors(one), tensors(other)))


def test_what_is_unknown_is_zero_and_marked() -> None:
    values = control([1.0, UNKNOWN, 3.0], [5.0])
    assert values.values_BCT.tolist() == [[[1, 0, 3]], [[5, 0, 0]]]
    assert values.known_BT.tolist() == [[True, False, True], [True, False, False]]
    assert values.packed().tolist() == [[[1, 1], [0, 0], [3, 1]], [[5, 1], [0, 0], [0, 0]]]


def test_a_frame_counts_as_known_only_with_all_its_channels() -> None:
    values = FrameControl.of([np.array([[1.0, 2.0], [UNKNOWN, 3.0]])])
    assert values.known_BT.tolist() == [[False, True]]
    assert values.values_BCT.tolist() == [[[0, 2], [0, 3]]]


@given(st.integers(0, 12), st.integers(0, 12))
def test_frames_past_the_end_are_unknown(start: int, length: int) -> None:
    values = control([1.0, 2.0, UNKNOWN, 4.0, 5.0])
    cut = values.frames(start, start + length)
    wanted = [1.0, 2.0, 0.0, 4.0, 5.0][start : start + length]
    assert cut.values_BCT[0, 0].tolist() == wanted + [0.0] * (length - len(wanted))
    assert cut.known_BT.shape == (1, length)
    assert not cut.known_BT[0, len(wanted) :].any()


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_stacked_rows_are_the_rows(lengths: list[int], seed: int) -> None:
    together = asked(lengths, seed)
    assert len(together) == len(lengths)
    stacked = Conditions.cat(*(together.rows([row]) for row in range(len(lengths))))
    assert equal(stacked, together)


def test_dropping_names_what_is_dropped() -> None:
    conditions = asked([3, 5])
    without_text = conditions.as_null(["text"])
    assert without_text["text"].null_B.all()
    assert torch.equal(without_text["height"].known_BT, conditions["height"].known_BT)
    nothing = conditions.as_null()
    assert nothing["text"].null_B.all()
    assert not nothing["height"].known_BT.any()
    assert not conditions["text"].null_B.any()  # the batch itself stays as it is


def test_a_control_that_a_batch_lacks_is_unknown_there() -> None:
    conditions = asked([3, 5])
    text_alone = Conditions({"text": conditions["text"]})
    both = Conditions.cat(text_alone, conditions)
    assert not both["height"].known_BT[:2].any()
    assert torch.equal(both["height"].known_BT[2:], conditions["height"].known_BT)


def test_rows_must_agree() -> None:
    with pytest.raises(ValueError, match="equally many rows"):
        Conditions({"text": asked([3, 5])["text"], "height": control([1.0])})


def test_it_travels_between_processes() -> None:
    conditions = asked([3, 5])
    assert equal(pickle.loads(pickle.dumps(conditions)), conditions)


def test_a_control_adds_nothing_at_first_and_never_where_it_is_unknown() -> None:
    layers = InputLayers({"height": ControlInput(1, 6), "depth": ControlInput(2, 6)})
    conditions = asked([4])
    packed = layers.pack(conditions, 5)
    assert packed is not None
    assert packed.shape == (1, 5, layers.channels)
    assert packed.shape[2] == 2 + 3  # each with its mask; nothing is known of the depth
    assert not layers.by_frame(packed).any()
    torch.nn.init.normal_(layers.layers()[0].proj.weight)
    added = layers.by_frame(packed).abs().sum(-1) > 0
    known = conditions["height"].frames(0, 5).known_BT
    assert torch.equal(added, known)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    registry = Registry("stage1.backbone", {"prefix_simba": 1, "cross_simba": 2})
    assert registry.find("prefix_simba") == 1
    with pytest.raises(UserError, match=r"stage1\.backbone=prefix_samba is unknown; did you mean prefix_simba\?"):
        registry.find("prefix_samba")
    with pytest.raises(UserError, match=r"there are cross_simba, prefix_simba"):
        registry.find("zzz")
