"""One uniform number picks one token: inverse distribution, nucleus, and the limit of no temperature."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import DecodingError
from lab.records.seeds import uniforms
from lab.sampling.trace import GREEDY, Decoding, nucleus, pick

SLACK = 1e-5
LOGITS = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)
UNIFORM = st.floats(0, 1, exclude_max=True)
WIDE = Decoding()


def picked(logits, uniform, decoding):
    """The token of one row, as a number."""
    choice = pick(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), decoding)
    return int(choice.tokens[0])


def probabilities(logits, temperature):
    """Softmax in Python's doubles."""
    top = max(logits)
    weights = [math.exp((logit - top) / temperature) for logit in logits]
    return [weight / sum(weights) for weight in weights]


def share_below(weights, token):
    """Where the interval of `token` begins and ends on the line from 0 to 1."""
    total = sum(weights)
    return sum(weights[:token]) / total, sum(weights[: token + 1]) / total


@given(LOGITS, UNIFORM, st.floats(0.2, 5))
def test_the_picked_token_is_the_one_whose_interval_holds_the_number(logits, uniform, temperature):
    token = picked(logits, uniform, replace(WIDE, temperature=temperature))
    low, high = share_below(probabilities(logits, temperature), token)
    assert low - SLACK <= uniform <= high + SLACK


@pytest.mark.parametrize("shuffle", [0, 1, 2])
def test_dyadic_probabilities_are_inverted_exactly(shuffle):
    shares = np.roll([8, 4, 2, 1, 1, 0], shuffle)
    weights = torch.from_numpy(shares / 16).float()
    middles = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    tokens = pick(weights.log().expand(16, 6), middles, WIDE).tokens
    assert tokens.tolist() == [token for token in range(6) for _ in range(shares[token])]


@given(LOGITS, UNIFORM, st.floats(0.05, 1))
def test_a_token_outside_the_nucleus_is_never_picked(logits, uniform, top_p):
    decoding = replace(WIDE, top_p=top_p)
    weights = nucleus(torch.softmax(torch.tensor([logits]), dim=-1), top_p)[0].tolist()
    token = picked(logits, uniform, decoding)
    assert weights[token] > 0
    low, high = share_below(weights, token)
    assert low - SLACK <= uniform <= high + SLACK


@given(LOGITS, st.floats(0.01, 1, exclude_max=True))
def test_the_nucleus_is_the_smallest_set_of_most_likely_tokens_that_reaches_top_p(logits, top_p):
    weights = torch.softmax(torch.tensor([logits]), dim=-1)
    inside = nucleus(weights, top_p)[0]
    kept, dropped = weights[0][inside > 0].tolist(), weights[0][inside == 0].tolist()
    assert torch.equal(inside[inside > 0], weights[0][inside > 0])
    assert kept
    assert all(low <= high for low in dropped for high in kept)
    assert sum(kept) >= top_p - SLACK
    assert sum(kept) - min(kept) < top_p + SLACK


def test_a_nucleus_by_hand():
    weights = torch.tensor([[0.125, 0.5, 0.25, 0.125]])
    assert nucleus(weights, 0.5).tolist() == [[0, 0.5, 0, 0]]
    assert nucleus(weights, 0.51).tolist() == [[0, 0.5, 0.25, 0]]
    assert nucleus(weights, 0.75).tolist() == [[0, 0.5, 0.25, 0]]


def test_equal_weights_enter_the_nucleus_in_the_order_of_their_ids_whatever_the_batch():
    row = torch.full((300,), 1 / 300)
    alone = nucleus(row[None], 0.5)[0]
    assert (alone > 0).sum() == 150
    assert (alone[:150] > 0).all()
    for kept in nucleus(row.expand(64, 300), 0.5):
        assert torch.equal(kept, alone)


@given(st.lists(st.sampled_from([-1.0, 0.0, 2.0]), min_size=1, max_size=20), UNIFORM)
def test_greedy_takes_the_first_of_the_most_likely_whatever_the_number(logits, uniform):
    assert picked(logits, uniform, GREEDY) == logits.index(max(logits))


@given(LOGITS, UNIFORM, st.sampled_from([1e-6, 1e-12, 1e-30]))
def test_sampling_becomes_greedy_as_the_temperature_falls(logits, uniform, temperature):
    token = picked(logits, uniform, replace(WIDE, temperature=temperature))
    assert logits[token] >= max(logits) - 20 * temperature


def test_a_high_temperature_makes_all_tokens_alike():
    numbers = (torch.arange(8, dtype=torch.float64) + 0.5) / 8
    logits = torch.linspace(-3, 3, 8).expand(8, 8)
    assert pick(logits, numbers, replace(WIDE, temperature=1e9)).tokens.tolist() == list(range(8))


@pytest.mark.parametrize("decoding", [WIDE, replace(WIDE, temperature=0.5), replace(WIDE, top_p=0.8)])
def test_frequencies_match_the_probabilities(decoding):
    n, logits = 20_000, [1.0, 0.5, 0.0, -0.5, -1.0, 0.9, -3.0]
    numbers = torch.from_numpy(uniforms(np.arange(n, dtype=np.uint64), 0))
    tokens = pick(torch.tensor(logits).expand(n, len(logits)), numbers, decoding).tokens
    weights = torch.softmax(torch.tensor(logits) / decoding.temperature, dim=-1)
    weights = nucleus(weights[None], decoding.top_p)[0] if decoding.top_p < 1 else weights
    wanted = (weights / weights.sum() * n).numpy()
    counts = np.bincount(tokens.numpy(), minlength=len(logits))
    assert (counts[wanted == 0] == 0).all()
    # At most 6 degrees of freedom: 22.5 is the 0.999 quantile of chi-square.
    assert ((counts - wanted)[wanted > 0] ** 2 / wanted[wanted > 0]).sum() < 22.5


@given(st.integers(1, 6), st.integers(0, 1000), st.sampled_from([WIDE, replace(WIDE, top_p=0.7), GREEDY]))
def test_a_row_does_not_depend_on_its_neighbours(n_rows, seed, decoding):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n_rows, 9, generator=generator)
    numbers = torch.rand(n_rows, generator=generator, dtype=torch.float64)
    together = pick(logits, numbers, decoding)
    for row in range(n_rows):
        alone = pick(logits[row : row + 1], numbers[row : row + 1], decoding)
        assert alone.tokens[0] == together.tokens[row]
        assert alone.logprobs[0] == together.logprobs[row]


def test_log_probabilities_are_those_of_the_plain_logits():
    logits = [2.0, 1.0, 0.0]
    for decoding in (WIDE, GREEDY, replace(WIDE, temperature=0.3, top_p=0.5)):
        choice = pick(torch.tensor([logits]), torch.zeros(1), decoding)
        assert int(choice.tokens[0]) == 0
        assert float(choice.logprobs[0]) == pytest.approx(math.log(probabilities(logits, 1.0)[0]), abs=1e-6)


@pytest.mark.parametrize(
    ("row", "finite"),
    [
        ([0.0, 1.0, -math.inf], True),
        ([0.0, math.nan, 1.0], False),
        ([0.0, math.inf, 1.0], False),
        ([-math.inf, -math.inf, -math.inf], False),
    ],
)
@pytest.mark.parametrize("decoding", [WIDE, GREEDY, replace(WIDE, top_p=0.5), replace(WIDE, temperature=1e-3)])
def test_rows_that_cannot_be_sampled_are_marked_and_spoil_no_other(row, finite, decoding):
    choice = pick(torch.tensor([row, [0.0, 5.0, 0.0]]), torch.tensor([0.5, 0.5]), decoding)
    assert choice.finite.tolist() == [finite, True]
    assert int(choice.tokens[1]) == 1


def test_half_precision_logits_are_picked_from_in_single_precision():
    logits = torch.linspace(-2, 2, 50).expand(200, 50)
    numbers = torch.from_numpy(uniforms(np.arange(200, dtype=np.uint64), 3))
    halved = logits.bfloat16()
    assert torch.equal(pick(halved, numbers, WIDE).tokens, pick(halved.float(), numbers, WIDE).tokens)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", -0.1, "want 0 .greedy. or a positive number"),
        ("temperature", math.inf, "temperature inf"),
        ("temperature", math.nan, "temperature nan"),
        ("top_p", 0.0, "top_p 0.0"),
        ("top_p", 1.1, "at most 1"),
        ("top_p", math.nan, "top_p nan"),
        ("max_new_tokens", 0, "want at least 1"),
        ("stop", ("a", ""), "empty stop string"),
    ],
)
def test_impossible_settings_are_clear_errors(field, value, message):
    with pytest.raises(DecodingError, match=message):
        replace(WIDE, **{field: value})
