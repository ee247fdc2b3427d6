"""Power sampling against the power distribution itself, enumerated text by text on a model of five tokens."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chisquare

from lab.models.load import Model, assemble
from lab.models.tiny import tiny_network
from lab.organisms.build import chain_tokenizer
from lab.records.errors import DecodingError
from lab.sampling.trace import Decoding
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.elicit import Chain, PowerSampling, elicit, log_normaliser, move_once, proposed
from lab.test_time.method import PartialCompletion

PROBLEM = Problem(id="p", prompt="01", answer="", family="all", source="test")
OTHER = replace(PROBLEM, id="q", prompt="1")
N_CHAINS = 1500
SHORT = Decoding(max_new_tokens=3)


@pytest.fixture(scope="module")
def model() -> Model:
    """Tokens: padding, unknown, 0, 1 and the end."""
    return assemble(tiny_network("llama", seed=4, d_vocab=5, d_model=16), chain_tokenizer("01."), name="five tokens")


def text_probabilities(model: Model, decoding: Decoding) -> dict[tuple[int, ...], float]:
    """Every text there is and its probability at temperature 1, by plain forward passes over whole texts."""
    prompt = model.tokenizer(PROBLEM.prompt).input_ids
    finished: dict[tuple[int, ...], float] = {}
    open_texts: dict[tuple[int, ...], float] = {(): 1.0}
    while open_texts:
        text, probability = open_texts.popitem()
        with torch.no_grad():
            logits = model.network(torch.tensor([[*prompt, *text]])).logits[0, -1].double()
        for token, share in enumerate(logits.softmax(-1).tolist()):
            longer = (*text, token)
            written = model.tokenizer.decode(list(longer), skip_special_tokens=True)
            is_over = token == 4 or len(longer) == decoding.max_new_tokens or any(s in written for s in decoding.stop)
            (finished if is_over else open_texts)[longer] = probability * share
    return finished


def answers(model, problems, method, decoding, **options):
    task = Task(name="texts", problems=tuple(problems), judge=MATH)
    traces, cost, _ = elicit(model, task, problems, method, decoding, **options)
    return traces, cost


def sampled_texts(model: Model, method: PowerSampling, decoding: Decoding, n_chains=N_CHAINS, **options) -> Counter:
    traces, _ = answers(model, [PROBLEM], method, decoding, n_samples=n_chains, seed=1, batch_size=2000, **options)
    return Counter(trace.tokens for trace in traces)


def fit_p_value(counts: Counter, probabilities: dict[tuple[int, ...], float], alpha: float) -> float:
    """Of a chi-square test of the counts against the normalised power, texts expected under 8 times put together."""
    powered = {text: probability**alpha for text, probability in probabilities.items()}
    assert set(counts) <= set(powered)
    total, n = sum(powered.values()), counts.total()
    wanted = {text: n * power / total for text, power in powered.items()}
    common = [text for text in wanted if wanted[text] >= 8]
    assert len(common) >= 5
    seen = [counts[text] for text in common]
    return chisquare(
        [*seen, n - sum(seen)], [*(wanted[text] for text in common), n - sum(wanted[text] for text in common)]
    ).pvalue


def test_the_enumeration_is_whole(model):
    probabilities = text_probabilities(model, SHORT)
    assert len(probabilities) == 1 + 4 + 16 * 5
    assert sum(probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("method", "decoding"),
    [
        (PowerSampling(alpha=2.0, n_blocks=3, n_moves=10), SHORT),
        pytest.param(PowerSampling(alpha=2.0, n_blocks=1, n_moves=16), SHORT, marks=pytest.mark.slow),
        pytest.param(
            PowerSampling(alpha=1.5, n_blocks=2, n_moves=10), Decoding(max_new_tokens=2), marks=pytest.mark.slow
        ),
        pytest.param(
            PowerSampling(alpha=2.0, n_blocks=2, n_moves=10),
            Decoding(max_new_tokens=3, stop=("01", "11")),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_texts_come_in_proportion_to_the_power_of_their_probability(model, method, decoding):
    counts = sampled_texts(model, method, decoding)
    assert fit_p_value(counts, text_probabilities(model, decoding), method.alpha) > 1e-3


def test_low_temperature_is_not_the_power(model):
    counts = sampled_texts(model, PowerSampling(alpha=2.0, n_blocks=1, n_moves=0), SHORT)
    assert fit_p_value(counts, text_probabilities(model, SHORT), 2.0) < 1e-6


def test_at_alpha_one_every_proposal_is_accepted_and_the_model_is_sampled(model):
    chains = [Chain(PROBLEM, index, 0) for index in range(500)]
    drafts = [PartialCompletion(prompt=tuple(model.tokenizer(PROBLEM.prompt).input_ids)) for _ in chains]
    drafts = proposed(model, chains, drafts, 1.0, SHORT, ("block", 0), 256)
    answers = []
    for move in range(4):
        moved = move_once(model, chains, drafts, 1.0, SHORT, (0, move), 256)
        drafts = moved.drafts
        answers += moved.accepted
    assert {True, None} == set(answers)
    counts = Counter(partial.tokens for partial in drafts)
    assert fit_p_value(counts, text_probabilities(model, SHORT), 1.0) > 1e-3


def test_a_refused_proposal_costs_its_tokens_and_leaves_the_text(model):
    chains = [Chain(PROBLEM, index, 3) for index in range(200)]
    drafts = [PartialCompletion(prompt=tuple(model.tokenizer(PROBLEM.prompt).input_ids)) for _ in chains]
    drafts = proposed(model, chains, drafts, 1.5, SHORT, ("block", 0), 256)
    moved = move_once(model, chains, drafts, 1.5, SHORT, (0, 0), 256)
    assert {True, False, None} == set(moved.accepted)
    for before, after, accepted, n_tokens in zip(drafts, moved.drafts, moved.accepted, moved.n_tokens, strict=True):
        assert (n_tokens == 0) == (accepted is None)
        if not accepted:
            assert after == before


@pytest.mark.parametrize("batch_size", [1, 5])
def test_samples_depend_neither_on_the_batch_nor_on_other_problems(model, batch_size):
    method, decoding = PowerSampling(n_blocks=2, n_moves=3), Decoding(max_new_tokens=8)
    together, cost = answers(model, [PROBLEM, OTHER], method, decoding, n_samples=3, seed=2)
    alone, cost_alone = answers(model, [OTHER], method, decoding, n_samples=3, seed=2, batch_size=batch_size)
    assert [trace.tokens for trace in alone] == [trace.tokens for trace in together[3:]]
    assert [(trace.problem_id, trace.sample_index) for trace in alone] == [("q", 0), ("q", 1), ("q", 2)]
    assert cost_alone.n_tokens == cost.n_tokens[1:]


def test_log_probabilities_are_those_of_the_model_at_temperature_one(model):
    probabilities = text_probabilities(model, SHORT)
    traces, _ = answers(model, [PROBLEM], PowerSampling(n_blocks=2, n_moves=3), SHORT, n_samples=20, seed=5)
    for trace in traces:
        assert sum(trace.logprobs) == pytest.approx(math.log(probabilities[trace.tokens]), abs=1e-4)
        assert trace.stop == ("eos" if trace.tokens[-1] == 4 else "length")


def test_without_moves_a_text_costs_its_own_tokens_and_moves_cost_more(model):
    decoding = Decoding(max_new_tokens=6)
    traces, cost = answers(model, [PROBLEM], PowerSampling(n_moves=0), decoding, n_samples=10, seed=0)
    assert cost.n_tokens == (sum(len(trace.tokens) for trace in traces),)
    _, moved = answers(model, [PROBLEM], PowerSampling(n_moves=2), decoding, n_samples=10, seed=0)
    assert moved.n_tokens[0] > cost.n_tokens[0]


@given(
    logits=arrays(np.float32, (3, 5), elements=st.floats(-8, 8, width=32)),
    alpha=st.floats(1, 8),
    shift=st.floats(-5, 5),
)
def test_the_normaliser_is_the_sum_of_powers(logits, alpha, shift):
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    wanted = np.log((probabilities**alpha).sum(axis=1))
    found = log_normaliser(torch.from_numpy(logits) + shift, alpha=alpha)
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-4)
    assert (found <= 1e-5).all()


def test_blocks_end_at_even_shares_of_the_limit_and_never_repeat():
    assert PowerSampling(n_blocks=4).limits(96) == (24, 48, 72, 96)
    assert PowerSampling(n_blocks=4).limits(3) == (1, 2, 3)
    assert PowerSampling(n_blocks=1).limits(7) == (7,)


@pytest.mark.parametrize("wrong", [{"alpha": 0.5}, {"alpha": math.inf}, {"n_blocks": 0}, {"n_moves": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(DecodingError, match=r"want (a number of )?at least 1"):
        PowerSampling(**wrong)
