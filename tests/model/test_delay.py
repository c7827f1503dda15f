import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmttm.model.delay import apply_delay, as_beginning, holds_frame, revert_delay, shift_right


@given(B=st.integers(1, 3), K=st.integers(1, 9), T=st.integers(1, 30), seed=st.integers(0, 999))
@settings(max_examples=300, deadline=None)
def test_delay_reverts(B, K, T, seed):
    codes = torch.randint(0, 50, (B, K, T), generator=torch.Generator().manual_seed(seed))
    delayed = apply_delay(codes, special=50)
    assert delayed.shape == (B, K, T + K - 1)
    assert torch.equal(revert_delay(delayed), codes)
    held = torch.tensor([holds_frame(s, K, T) for s in range(T + K - 1)]).T
    assert torch.equal(delayed[0] != 50, held)


@given(K=st.integers(1, 5), T=st.integers(2, 30), first=st.integers(0, 28), seed=st.integers(0, 999))
@settings(max_examples=200, deadline=None)
def test_what_begins_in_the_middle_is_delayed_like_a_whole_piece(K, T, first, seed):
    first = min(first, T - 1)
    codes = torch.randint(0, 50, (2, K, T), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(
        as_beginning(apply_delay(codes, special=50)[..., first:], special=50), apply_delay(codes[..., first:], 50)
    )


def test_shift_right_starts_with_special():
    delayed = torch.tensor([[[1, 2, 3]]])
    assert shift_right(delayed, 9).tolist() == [[[9, 1, 2]]]
