"""The choice of a batch: k a row on average, the largest, whoever's they are."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from probes.crosscoder.crosscoder import batch_top_k


@st.composite
def choices(draw):
    n_rows, n_latents = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    # Repeated values, so that the last one kept is often a tie.
    values = torch.randint(0, 9, (n_rows, n_latents), generator=generator).float()
    return values, draw(st.integers(1, n_latents))


@given(choices())
def test_exactly_k_times_batch_entries_are_kept_and_none_left_out_is_larger(choice):
    values, k = choice
    kept = batch_top_k(values, k)
    assert int(kept.sum()) == k * len(values)
    if not kept.all():
        assert values[kept].min() >= values[~kept].max()


def test_a_row_may_keep_more_than_k_and_another_none():
    values = torch.tensor([[3.0, 2.0, 1.0], [0.3, 0.2, 0.1]])
    assert batch_top_k(values, 1).tolist() == [[True, True, False], [False, False, False]]


def test_more_than_there_are_is_all_of_them():
    assert batch_top_k(torch.zeros(2, 3), 5).all()
