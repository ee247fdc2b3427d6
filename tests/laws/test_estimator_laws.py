"""What holds of every estimator that only counts samples and reads their probabilities, whatever the evidence."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from elicitation.estimators.base_success import base_success
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import ESTIMATES, Analysis
from elicitation.estimators.kl_split import kl_split
from lab.metrics.accuracy import cover_curve, problem_pass_at_k
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import SCORES
from tests.evidence import evidence_of

FAST = Analysis(n_boot=100)
ESTIMATORS = [
    pytest.param(coverage, id="coverage"),
    pytest.param(base_success, id="base_success"),
    pytest.param(kl_split, id="kl_split"),
]
seeds = st.integers(0, 10_000)


def evidence(seed, n_problems=12, n=8):
    """Random evidence: problems of all difficulties, a tuned model that succeeds more often, scores without a law."""
    generator = np.random.default_rng(seed)
    ease = generator.beta(0.5, 2, size=n_problems)
    rates = {"base": ease * (generator.random(n_problems) < 0.7), "tuned": ease + 0.6 * (1 - ease)}
    frame = pl.DataFrame(
        [
            (writer, f"p{problem:03d}", sample, *-generator.exponential(5, size=2), generator.exponential(), won)
            for writer in ("base", "tuned")
            for problem in range(n_problems)
            for sample, won in enumerate(generator.random(n) < rates[writer][problem])
        ],
        schema=["writer", "problem_id", "sample_index", "logp_base", "logp_tuned", "token_kl", "strict"],
        orient="row",
    ).with_columns(
        pl.col("sample_index").cast(pl.Int32),
        pl.col("strict").cast(pl.Boolean),
        pl.col("logp_tuned") / 4,  # so the divergence of the tuned model is positive
    )
    return evidence_of(
        frame.select(
            "problem_id",
            "sample_index",
            "strict",
            arm="writer",
            answer_correct="strict",
            process_valid=pl.lit(None, dtype=pl.Boolean),
            reason=pl.lit("ok"),
            read_by=pl.lit("box"),
            outcome=pl.lit("right"),
        ).select(list(VERDICTS.dtypes)),
        scores=frame.with_columns(n_tokens=pl.lit(3, dtype=pl.Int32)).select(list(SCORES.dtypes)),
    )


def mapped(data, change):
    """The evidence with its two tables changed."""
    return replace(data, verdicts=change(data.verdicts), scores=change(data.scores))


def row(table, quantity):
    return table.row(by_predicate=pl.col("quantity") == quantity, named=True)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=8)
@given(seeds)
def test_the_order_of_rows_changes_nothing(estimator, seed):
    data = evidence(seed)
    shuffled = mapped(data, lambda table: table.sample(fraction=1.0, shuffle=True, seed=seed))
    assert not shuffled.verdicts.equals(data.verdicts)
    assert_frame_equal(estimator(data, FAST), estimator(shuffled, FAST), check_exact=True)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=8)
@given(seeds)
def test_the_names_of_problems_change_no_value(estimator, seed):
    data = evidence(seed, n_problems=40)
    names = [f"p{index:03d}" for index in range(40)]
    other = dict(zip(names, np.random.default_rng(seed).permutation(names).tolist(), strict=True))
    renamed = mapped(data, lambda table: table.with_columns(pl.col("problem_id").replace_strict(other)))
    columns = ["estimator", "quantity", "unit", "value"]
    before, after = estimator(data, FAST), estimator(renamed, FAST)
    assert before.filter((pl.col("unit") == "share") & pl.col("value").is_finite()).height == 1, "a share is at stake"
    assert_frame_equal(before.select(columns), after.select(columns), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_shrink_with_the_number_of_problems(estimator, seed):
    few = evidence(seed, n_problems=30)
    copies = [few.verdicts, few.scores]
    grown = [
        pl.concat([table.with_columns(pl.col("problem_id") + f" copy {copy}") for copy in range(9)]) for table in copies
    ]
    many = replace(few, verdicts=grown[0], scores=grown[1])
    precise = Analysis(n_boot=1000)
    both = estimator(few, precise).join(estimator(many, precise), on="quantity", suffix="_many")
    widths = both.filter(pl.col("low").is_finite() & (pl.col("high") > pl.col("low"))).select(
        "quantity",
        ratio=(pl.col("high_many") - pl.col("low_many")) / (pl.col("high") - pl.col("low")),
        shift=(pl.col("value_many") - pl.col("value")).abs(),
    )
    assert widths.height >= 4
    assert (widths["shift"] < 1e-9).all(), "nine copies of a problem set have its values"
    assert (widths["ratio"] < 0.6).all(), widths
    assert widths["ratio"].median() == pytest.approx(1 / 3, abs=0.06), "as one over the root of their number"


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=8)
@given(seeds)
def test_values_lie_inside_their_intervals_and_probabilities_between_none_and_one(estimator, seed):
    table = ESTIMATES.checked(estimator(evidence(seed), FAST))
    assert table["quantity"].is_unique().all()
    given_rows = table.filter(pl.col("low").is_finite() & pl.col("high").is_finite())
    assert not given_rows.is_empty()
    assert (given_rows["low"] <= given_rows["value"] + 1e-12).all()
    assert (given_rows["value"] <= given_rows["high"] + 1e-12).all()
    chances = table.filter((pl.col("unit") == "probability") & pl.col("refusal").is_null())
    assert chances["value"].is_between(0, 1).all()
    refused = table.filter(pl.col("refusal").is_not_null())
    assert refused["value"].is_nan().all()
    assert refused["low"].is_nan().all()


@settings(max_examples=15)
@given(seeds, st.sampled_from([8, 16, 32]))
def test_more_tries_never_solve_less(seed, n):
    table = coverage(evidence(seed, n=n), FAST)
    for arm in ("base", "tuned"):
        assert row(table, f"strict pass@1, {arm}")["value"] <= row(table, f"strict pass@{n // 4}, {arm}")["value"]


@settings(max_examples=15)
@given(seeds)
def test_turning_the_pair_around_turns_the_solved_sets_around(seed):
    data = evidence(seed)
    turned = replace(
        data, verdicts=data.verdicts.with_columns(pl.col("arm").replace({"base": "tuned", "tuned": "base"}))
    )
    there, back = coverage(data, FAST), coverage(turned, FAST)
    assert row(back, "NSCR")["value"] == pytest.approx(-row(there, "NSCR")["value"])
    assert row(back, "NDR")["value"] == pytest.approx(1 - row(there, "SRR")["value"], nan_ok=True)
    assert row(back, "SRR")["value"] == pytest.approx(1 - row(there, "NDR")["value"], nan_ok=True)


@settings(max_examples=15)
@given(seeds, st.sampled_from([1, 2, 5, 16]))
def test_pass_at_k_is_an_integral_over_cover_at_tau(seed, k):
    """Of the plug-in rates c / n: the integral over t in [0, 1] of k (1 - t)^(k - 1) Cover@t, step by step."""
    n, data = 8, evidence(seed)
    base = data.verdicts.filter(pl.col("arm") == "base").group_by("problem_id").agg(pl.col("strict").mean())
    rates = base["strict"].to_numpy()
    steps = np.arange(n + 1) / n
    cover = [point.value for point in cover_curve(rates, steps[1:].tolist(), np.ones((100, 12), dtype=int)).values()]
    area = ((1 - steps[:-1]) ** k - (1 - steps[1:]) ** k) @ np.array(cover)  # Cover is constant between steps
    assert area == pytest.approx((1 - (1 - rates) ** k).mean(), abs=1e-12)
    if k == 1:
        assert area == pytest.approx(row(coverage(data, FAST), "strict pass@1, base")["value"])
    # The unbiased pass@k of the same rates in ever more samples is the same curve.
    n_many = np.full(len(rates), n * 10_000)
    unbiased = problem_pass_at_k(n_many, np.round(rates * n_many).astype(np.int64), k)
    assert area == pytest.approx(unbiased.mean(), abs=1e-3)
