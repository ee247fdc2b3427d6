"""Rates of a schedule, worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import VectorError
from lab.scoring.scores import Row
from steering.routing.category_vectors import Moments
from steering.routing.routing import fit_schedule


def of(*texts: str) -> Moments:
    """Moments of texts in which a disagreement is written as "x"."""
    return Moments(
        rows=[Row([1], list(text.encode())) for text in texts],
        problem_ids=tuple(str(index) for index in range(len(texts))),
        texts=np.repeat(np.arange(len(texts)), [len(text) for text in texts]),
        positions=np.concatenate([np.arange(len(text)) for text in texts] or [np.empty(0, dtype=np.int64)]),
        decided=np.array([letter == "x" for text in texts for letter in text], dtype=bool),
    )


def test_a_rate_is_the_share_of_texts_with_a_decision_there_and_one_more_of_the_mean():
    # 4 disagreements in 12 tokens. Step 0: 3 of 4 texts, 1: 0 of 4, 2: 0 of 2, then 3 and 4 of a single text: 1 of 2.
    found = fit_schedule(of("xoo", "xo", "oo", "xooxo"))
    third = 4 / 12
    assert found.rates == pytest.approx(((3 + third) / 5, third / 5, third / 3, (1 + third) / 3))


def test_steps_that_few_texts_reach_share_the_last_rate():
    assert len(fit_schedule(of("xo", "oo", "oo", "ooooooo")).rates) == 3


def test_with_texts_of_one_length_no_step_is_left_for_the_last_rate_but_the_mean():
    assert fit_schedule(of("xo", "xo")).rates == pytest.approx((2.5 / 3, 0.5 / 3, 0.5))


@given(texts=st.lists(st.text("xo", min_size=1, max_size=6), min_size=1, max_size=6))
def test_rates_add_up_to_the_decisions_but_for_the_smoothing(texts):
    when = of(*texts)
    n_texts = np.bincount(when.positions).tolist()
    rates = fit_schedule(when).rates
    n_own = len(rates) - 1
    reached = np.array([*n_texts[:n_own], sum(n_texts[n_own:])])
    total = float(np.sum(np.array(rates) * (reached + 1)) - len(rates) * when.decided_share)
    assert total == pytest.approx(when.decided.sum())


def test_no_token_gives_no_schedule():
    with pytest.raises(VectorError, match="want fitting traces of at least one token"):
        fit_schedule(of())
