import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.accuracy import REFUSAL_STDERRS, elicited_share, fieller_bounds
from lab.metrics.bootstrap import Interval, resamples
from lab.records.errors import EstimateError


def rates(seed, n_problems=120, share=0.5, n_samples=16, gain=0.5, n_boot=400):
    """Arm, base and tuned accuracies with a true share, and resampling weights."""
    generator = np.random.default_rng(seed)
    base = generator.beta(1, 2, size=n_problems)
    tuned = base + gain * (1 - base)
    arm = base + share * (tuned - base)
    drawn = [generator.binomial(n_samples, rate) / n_samples for rate in (arm, base, tuned)]
    return (*drawn, resamples(n_problems, n_boot, generator))


def test_hand_arithmetic():
    base = np.array([0.0, 0.2, 0.1, 0.1] * 10)
    tuned = np.array([0.8, 1.0, 0.9, 0.7] * 10)
    arm = np.array([0.4, 0.6, 0.5, 0.4] * 10)
    share = elicited_share(arm, base, tuned, resamples(40, 200, np.random.default_rng(0)))
    # gains 0.4 0.4 0.4 0.3, gaps 0.8 0.8 0.8 0.6
    assert share.value == pytest.approx(0.375 / 0.75)
    assert share.gap == pytest.approx(0.75)
    assert share.refusal is None


def test_fieller_solves_its_equation():
    top, bottom = (
        Interval(value=2.0, low=np.nan, high=np.nan, stderr=0.3),
        Interval(value=4.0, low=np.nan, high=np.nan, stderr=0.5),
    )
    covariance = 0.06
    rest = Interval(value=-2.0, low=np.nan, high=np.nan, stderr=float(np.sqrt(0.09 + 0.25 - 2 * covariance)))
    low, high = fieller_bounds(top, bottom, rest, 1.96)
    for ratio in (low, high):
        variance = 0.09 - 2 * ratio * covariance + ratio**2 * 0.25
        assert (2.0 - ratio * 4.0) ** 2 == pytest.approx(1.96**2 * variance)
    assert low < 0.5 < high


@settings(deadline=None)
@given(
    st.floats(-3, 3),
    st.floats(-3, 3).filter(lambda gap: abs(gap) > 1e-3),
    st.floats(0.01, 1),
    st.floats(0.01, 3),
    st.floats(-1, 1),
    st.floats(1.96, 4.303),  # Student quantiles from infinity down to two degrees of freedom
)
def test_an_unbounded_set_is_only_possible_below_the_refusal_threshold(top, gap, spread, excess, correlation, quantile):
    stderr = abs(gap) / (REFUSAL_STDERRS + excess)
    variance = spread**2 + stderr**2 - 2 * correlation * spread * stderr
    rest = Interval(value=top - gap, low=np.nan, high=np.nan, stderr=float(np.sqrt(max(variance, 0.0))))
    numerator = Interval(value=top, low=np.nan, high=np.nan, stderr=spread)
    above = fieller_bounds(numerator, Interval(value=gap, low=np.nan, high=np.nan, stderr=stderr), rest, quantile)
    assert np.isfinite(above).all()
    slack = 1e-9 * (1 + abs(top / gap))
    assert above.low - slack <= top / gap <= above.high + slack
    below = fieller_bounds(
        numerator, Interval(value=gap, low=np.nan, high=np.nan, stderr=abs(gap) / 1.9), rest, quantile
    )
    assert below == (-np.inf, np.inf)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_the_base_has_share_zero_and_the_tuned_model_one(seed):
    _, base, tuned, weights = rates(seed)
    nothing, everything = elicited_share(base, base, tuned, weights), elicited_share(tuned, base, tuned, weights)
    assert nothing.value == 0
    assert everything.value == 1
    for share in (nothing, everything):
        assert share.low < share.value < share.high, "no certainty from problems that happen to agree"
        assert share.high - share.low < 0.3


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.floats(0.01, 100), st.booleans(), st.floats(-5, 5))
def test_the_unit_and_the_zero_of_the_score_do_not_matter(seed, scale, flip, shift):
    arm, base, tuned, weights = rates(seed, n_problems=60)
    scale = -scale if flip else scale
    bounds = (min(shift, scale + shift), max(shift, scale + shift))
    plain = elicited_share(arm, base, tuned, weights)
    scaled = elicited_share(scale * arm + shift, scale * base + shift, scale * tuned + shift, weights, bounds=bounds)
    assert (scaled.value, scaled.low, scaled.high, scaled.bootstrap_low, scaled.bootstrap_high) == pytest.approx(
        (plain.value, plain.low, plain.high, plain.bootstrap_low, plain.bootstrap_high), rel=1e-6, nan_ok=True
    )
    assert scaled.gap == pytest.approx(scale * plain.gap)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_swapping_base_and_tuned_turns_the_share_around(seed):
    arm, base, tuned, weights = rates(seed, n_problems=60)
    share, turned = elicited_share(arm, base, tuned, weights), elicited_share(arm, tuned, base, weights)
    assert (turned.value, turned.low, turned.high) == pytest.approx((1 - share.value, 1 - share.high, 1 - share.low))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_the_names_of_problems_do_not_matter(seed):
    arm, base, tuned, weights = rates(seed, n_problems=60)
    order = np.random.default_rng(seed).permutation(60)
    share = elicited_share(arm, base, tuned, weights)
    renamed = elicited_share(arm[order], base[order], tuned[order], weights[:, order])
    assert (renamed.value, renamed.low, renamed.high, renamed.bootstrap_low, renamed.bootstrap_high) == pytest.approx(
        (share.value, share.low, share.high, share.bootstrap_low, share.bootstrap_high)
    )


def test_more_problems_give_a_narrower_interval():
    widths = []
    for n_problems in (60, 240, 960):
        share = elicited_share(*rates(7, n_problems=n_problems))
        widths.append(share.high - share.low)
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


def test_fieller_and_the_bootstrap_agree_on_a_large_gap():
    share = elicited_share(*rates(8, n_problems=400))
    width = share.high - share.low
    assert share.bootstrap_low == pytest.approx(share.low, abs=0.15 * width)
    assert share.bootstrap_high == pytest.approx(share.high, abs=0.15 * width)


@pytest.mark.parametrize("truth", [0.0, 0.6])
def test_fieller_covers_the_true_share(truth):
    generator = np.random.default_rng(9)
    weights = resamples(200, 100, generator)
    hits = 0
    for seed in range(400):
        arm, base, tuned, _ = rates(seed, n_problems=200, share=truth, n_samples=4, gain=0.3, n_boot=100)
        share = elicited_share(arm, base, tuned, weights)
        hits += share.low <= truth <= share.high
    assert 0.93 <= hits / 400 <= 0.975


def test_a_tuned_model_that_got_worse_keeps_its_sign():
    arm, base, tuned, weights = rates(10, n_problems=200)
    share = elicited_share(arm, tuned, base, weights)
    assert share.gap < 0
    assert share.value == pytest.approx((arm - tuned).mean() / (base - tuned).mean())
    away = elicited_share(np.clip(base - 0.2, 0, 1), base, tuned, weights)
    assert away.high < 0, "an arm that goes the other way has a negative share"


def test_a_placebo_is_refused_in_words():
    generator = np.random.default_rng(11)
    base, tuned = generator.binomial(8, 0.5, size=(2, 100)) / 8
    share = elicited_share(base, base, tuned, resamples(100, 200, generator))
    assert share.refusal is not None
    assert f"{share.gap:+.4f}" in share.refusal
    assert f"{share.gap_stderr:.4f}" in share.refusal
    assert "on 100 problems" in share.refusal
    assert np.isnan([share.value, share.low, share.high, share.bootstrap_low, share.bootstrap_high]).all()


def test_two_models_that_never_differ_are_refused():
    same = np.full(50, 0.5)
    share = elicited_share(same, same, same, resamples(50, 200, np.random.default_rng(0)))
    assert share.refusal is not None
    assert share.gap == 0
    assert share.gap_stderr > 0


@pytest.mark.parametrize("n_problems", [1, 2])
def test_one_or_two_problems_are_refused_however_large_the_gap(n_problems):
    base, tuned = np.linspace(0, 0.01, n_problems), np.ones(n_problems)
    share = elicited_share(tuned, base, tuned, resamples(n_problems, 200, np.random.default_rng(0)))
    assert share.refusal is not None
    assert np.isnan(share.value)


def test_a_gap_that_is_the_same_on_every_problem_is_no_certainty():
    base, tuned = np.zeros(100), np.ones(100)
    arm = (np.arange(100) % 2).astype(np.float64)
    share = elicited_share(arm, base, tuned, resamples(100, 400, np.random.default_rng(0)))
    assert share.value == 0.5
    assert share.gap_stderr > 0
    assert 0.3 < share.low < 0.42
    few = elicited_share(arm[:4], base[:4], tuned[:4], resamples(4, 400, np.random.default_rng(0)))
    assert few.refusal is not None


def test_scores_without_bounds_give_a_share_or_say_what_is_missing():
    arm, base, tuned, weights = rates(12)
    endless = (-np.inf, np.inf)
    share = elicited_share(arm, base, tuned, weights, bounds=endless)
    assert share == elicited_share(arm, base, tuned, weights)
    unmoved = elicited_share(base, base, tuned, weights, bounds=endless)
    assert unmoved.value == 0
    assert np.isnan([unmoved.low, unmoved.high]).all()
    with pytest.raises(EstimateError, match="extremes"):
        elicited_share(base * 0, base * 0, base * 0 + 1, weights, bounds=endless)


def test_arms_that_cannot_be_paired_are_errors():
    arm, base, tuned, weights = rates(13)
    with pytest.raises(EstimateError, match="cannot be paired"):
        elicited_share(arm[:-1], base, tuned, weights)
    with pytest.raises(EstimateError, match="weights for 120"):
        elicited_share(arm[:-1], base[:-1], tuned[:-1], weights)
    with pytest.raises(EstimateError, match="no problems"):
        elicited_share(arm[:0], base[:0], tuned[:0], weights)
    with pytest.raises(EstimateError, match="problem 0 is nan"):
        elicited_share(np.full_like(arm, np.nan), base, tuned, weights)
