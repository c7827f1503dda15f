"""Blocks at fixed frames: each frame owned once, in order, with the same window however the stream is cut."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from ssmttm.codec.blocks import CodecBlock, cut_blocks


def run(frames: int, cuts: list[int], before: int, after: int, block: int) -> list[CodecBlock]:
    stream = torch.arange(frames, dtype=torch.float32)[None, None]
    bounds = [0, *sorted(min(cut, frames) for cut in cuts), frames]
    state, windows = None, []
    for index, (start, end) in enumerate(itertools.pairwise(bounds)):
        fresh, state = cut_blocks(
            stream[..., start:end], state, before, after, final=index == len(bounds) - 2, block=block
        )
        windows += fresh
        assert state.waiting_BDT.shape[-1] < before + block + after
    return windows


@given(
    frames=st.integers(0, 60),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    before=st.integers(0, 9),
    after=st.integers(0, 9),
    block=st.integers(1, 8),
)
def test_windows_depend_on_absolute_frames_alone(
    frames: int, cuts: list[int], before: int, after: int, block: int
) -> None:
    for number, window in enumerate(run(frames, cuts, before, after, block)):
        first, last = number * block, min((number + 1) * block, frames)
        assert (window.context, window.owned) == (min(before, first), last - first)
        expected = range(max(first - before, 0), min(last + after, frames))
        assert window.frames_BDT.flatten().tolist() == list(expected)
    assert len(run(frames, cuts, before, after, block)) == -(-frames // block)
