"""Routers: when a token is not left to the base model."""

import itertools
from math import inf, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed, uniforms
from probes.capture.site import Site
from steering.hybrid.hybrid import Moment, Router, View
from steering.hybrid.routers import (
    Always,
    AtRandom,
    AtSteps,
    BaseProbe,
    Disagreement,
    EntropyAbove,
    InCategories,
    LinearProbe,
    Never,
    Reranked,
    Scheduled,
)

from .by_hand import taxonomy_of


def keys(n):
    return np.array([child_seed(0, "problem", index) for index in range(n)], dtype=np.uint64)


def routed(router, *, step=0, n=5, base=None, tuned=None):
    base = torch.zeros(n, 4) if base is None else base
    tuned = None if tuned is None else View(tuned, {})
    return router.route(Moment(step=step, keys=keys(n), base=View(base, {}), tuned=tuned)).tolist()


def asks_tuned(router: Router) -> bool:
    return router.reads.asks_tuned


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
    whole = routed(AtRandom(0.5), step=3, n=9)
    for row in range(9):
        now = Moment(step=3, keys=keys(9)[row : row + 1], base=View(torch.zeros(1, 2), {}), tuned=None)
        assert AtRandom(0.5).route(now)[0] == whole[row]


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


@given(st.floats(0, 1), st.integers(0, 30))
def test_a_schedule_of_one_rate_is_that_rate_at_random(rate, step):
    assert routed(Scheduled((rate,)), step=step, n=40) == routed(AtRandom(rate), step=step, n=40)


def test_a_schedule_of_rates_goes_on_with_its_last():
    rates = (1.0, 0.0, 0.5)
    for step, rate in enumerate((*rates, 0.5, 0.5)):
        assert routed(Scheduled(rates), step=step, n=40) == routed(AtRandom(rate), step=step, n=40)


@pytest.mark.parametrize("rates", [(), (0.5, 1.2), (float("nan"),)])
def test_a_schedule_without_probabilities_is_refused(rates):
    with pytest.raises(DecodingError, match="want at least one, and probabilities"):
        Scheduled(rates)


def test_entropy_by_hand():
    # Uniform over 1, 2 and 4 tokens: 0, log 2 and log 4 nats.
    base = torch.tensor([[0.0, -inf, -inf, -inf], [0.0, 0.0, -inf, -inf], [3.0, 3.0, 3.0, 3.0]])
    assert routed(EntropyAbove(0.0), n=3, base=base) == [False, True, True]
    assert routed(EntropyAbove(log(2) + 1e-3), n=3, base=base) == [False, False, True]
    assert routed(EntropyAbove(log(4) + 1e-3), n=3, base=base) == [False, False, False]


@given(st.integers(0, 1000), st.floats(0, 2), st.floats(0, 2))
def test_a_higher_bound_on_entropy_routes_fewer_and_the_temperature_is_one(seed, one, other):
    base, _ = logits_of(seed)
    low, high = (routed(EntropyAbove(nats), n=40, base=base) for nats in sorted((one, other)))
    assert all(not wanted or also for wanted, also in zip(high, low, strict=True))
    wanted = torch.distributions.Categorical(logits=base).entropy() > one
    assert routed(EntropyAbove(one), n=40, base=base) == wanted.tolist()


@pytest.mark.parametrize("nats", [-1.0, inf, float("nan")])
def test_an_entropy_that_cannot_be_a_bound_is_refused(nats):
    with pytest.raises(DecodingError, match="want a finite number from 0 on"):
        EntropyAbove(nats)


def test_a_linear_probe_opens_on_one_side_of_its_plane():
    probe = LinearProbe(Site(0), torch.tensor([2.0, -1.0]), -1.0)
    stream = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.5, 0.0], [0.0, -3.0]])
    assert probe.opens(stream).tolist() == [True, False, False, True]
    view = View(torch.zeros(4, 3), {Site(0): stream})
    now = Moment(step=0, keys=keys(4), base=view, tuned=None)
    assert BaseProbe(probe).route(now).tolist() == [True, False, False, True]


def test_a_router_by_category_routes_its_categories_alone():
    taxonomy = taxonomy_of(tiny_model(), n=4)
    # A stream along a category's own direction is of that category.
    view = View(torch.zeros(4, 3), {taxonomy.site: 2 * taxonomy.W_dec})
    now = Moment(step=0, keys=keys(4), base=View(torch.zeros(4, 3), {}), tuned=view)
    for wanted in ({1, 3}, set(), {0, 1, 2, 3}):
        came = InCategories(taxonomy, frozenset(wanted)).route(now)
        assert came.tolist() == [category in wanted for category in range(4)]
    assert asks_tuned(InCategories(taxonomy, frozenset({1})))
    with pytest.raises(DecodingError, match=r"categories \[4\] of a taxonomy of 4: want 0 to 3"):
        InCategories(taxonomy, frozenset({1, 4}))


def test_routers_that_read_the_base_alone_do_not_ask_the_tuned_model():
    probe = LinearProbe(Site(0), torch.ones(2), 0.0)
    assert not any(map(asks_tuned, (Scheduled((0.5,)), EntropyAbove(1.0), BaseProbe(probe))))
