"""Routers: when a token is not left to the base model."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import DecodingError
from lab.seeds import child_seed, uniforms
from steering.hybrid.router import Always, AtRandom, AtSteps, Disagreement, Never, Reranked, asks_tuned, route
from steering.hybrid.view import View


def keys(n):
    return np.array([child_seed(0, "problem", index) for index in range(n)], dtype=np.uint64)


def routed(router, *, step=0, n=5, base=None, tuned=None):
    base = torch.zeros(n, 4) if base is None else base
    return route(
        router, step=step, keys=keys(n), base=View(base, {}), tuned=None if tuned is None else View(tuned, {})
    ).tolist()


def test_never_and_always_are_what_they_say():
    assert routed(Never()) == [False] * 5
    assert routed(Always()) == [True] * 5


@given(st.frozensets(st.integers(0, 20)), st.integers(0, 20))
def test_a_schedule_routes_all_rows_at_its_steps_and_none_elsewhere(steps, step):
    assert routed(AtSteps(tuple(steps)), step=step) == [step in steps] * 5


def test_a_disagreement_is_about_the_most_likely_token_and_nothing_else():
    base = torch.tensor([[0.0, 1.0, 2.0], [5.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
    tuned = torch.tensor([[0.0, 9.0, 9.5], [0.0, 0.0, 0.1], [-9.0, -8.0, -8.5]])
    assert routed(Disagreement(), n=3, base=base, tuned=tuned) == [False, True, False]


@given(st.integers(0, 1000))
def test_models_that_agree_in_their_logits_never_disagree(seed):
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(seed))
    assert routed(Disagreement(), base=logits, tuned=logits * 2 + 1) == [False] * 5


def logits_of(seed, n=40, d_vocab=7):
    """Logits of two models that share their first choice on about half of the rows."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d_vocab, generator=generator)
    return base, base + torch.randn(n, d_vocab, generator=generator)


def test_a_choice_is_reranked_if_it_is_among_the_first_but_not_the_first():
    # The tuned model's first choice is token 2, which the base model ranks first, second, third and last.
    base = torch.tensor([[0.0, 1.0, 2.0, -1.0], [0.0, 2.0, 1.0, -1.0], [2.0, 3.0, 1.0, -1.0], [2.0, 3.0, 0.0, 1.0]])
    tuned = torch.tensor([[0.0, 0.0, 5.0, 0.0]]).expand(4, 4)
    assert routed(Reranked(1), n=4, base=base, tuned=tuned) == [False, False, False, False]
    assert routed(Reranked(2), n=4, base=base, tuned=tuned) == [False, True, False, False]
    assert routed(Reranked(3), n=4, base=base, tuned=tuned) == [False, True, True, False]
    assert routed(Reranked(4), n=4, base=base, tuned=tuned) == [False, True, True, True]
    assert routed(Reranked(), n=4, base=base, tuned=tuned) == [False, True, True, True]


@given(st.integers(0, 1000))
def test_reranking_grows_from_nothing_to_every_disagreement(seed):
    base, tuned = logits_of(seed)
    tables = [np.array(routed(Reranked(top), n=40, base=base, tuned=tuned)) for top in range(1, 8)]
    assert not tables[0].any()
    assert tables[-1].tolist() == routed(Disagreement(), n=40, base=base, tuned=tuned)
    assert all((larger >= smaller).all() for smaller, larger in itertools.pairwise(tables))


def test_models_that_agree_have_nothing_to_rerank_even_where_tokens_tie():
    logits = torch.tensor([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert routed(Reranked(3), n=2, base=logits, tuned=logits) == [False, False]


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_the_rate_of_a_random_router_is_kept_over_rows_and_over_steps(rate):
    n, n_steps = 400, 50
    table = np.array([routed(AtRandom(rate), step=step, n=n) for step in range(n_steps)])
    error = (rate * (1 - rate) / table.size) ** 0.5
    assert abs(table.mean() - rate) < 4 * error
    # Independent over both axes, so that the rates of rows and of steps scatter as binomial ones do.
    for axis, length in ((0, n_steps), (1, n)):
        assert table.mean(axis=axis).var() == pytest.approx(rate * (1 - rate) / length, rel=0.65)


def test_a_random_router_at_the_ends_is_never_and_always():
    for step in range(20):
        assert routed(AtRandom(0.0), step=step) == [False] * 5
        assert routed(AtRandom(1.0), step=step) == [True] * 5


def test_a_higher_rate_routes_all_that_a_lower_one_does():
    low, high = (np.array([routed(AtRandom(rate), step=step, n=100) for step in range(20)]) for rate in (0.2, 0.5))
    assert (high >= low).all()


def test_a_random_router_does_not_depend_on_the_batch():
    whole = route(AtRandom(0.5), step=3, keys=keys(9), base=View(torch.zeros(9, 2), {}), tuned=None)
    for row in range(9):
        own = keys(9)[row : row + 1]
        alone = route(AtRandom(0.5), step=3, keys=own, base=View(torch.zeros(1, 2), {}), tuned=None)
        assert alone[0] == whole[row]


def test_its_numbers_are_unrelated_to_those_that_choose_tokens():
    n, n_steps = 400, 50
    chosen = np.stack([uniforms(keys(n), step) for step in range(n_steps)])
    table = np.array([routed(AtRandom(0.3), step=step, n=n) for step in range(n_steps)])
    assert abs(np.corrcoef(chosen.ravel(), table.ravel())[0, 1]) < 4 / chosen.size**0.5


def test_only_routers_that_compare_the_models_ask_the_tuned_one():
    silent = (Never(), Always(), AtSteps((0,)), AtRandom(0.5))
    assert not any(asks_tuned(router) for router in silent)
    assert asks_tuned(Disagreement())
    assert asks_tuned(Reranked())


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(DecodingError, match="want a probability between 0 and 1"):
        AtRandom(rate)
