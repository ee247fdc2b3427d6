from dataclasses import replace
from itertools import product
from math import log, log1p

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.base_success import base_rates, base_success, judged_scores, pass_until
from elicitation.estimators.estimate import ESTIMATES, Analysis, problem_ids, problem_weights
from lab.metrics.bootstrap import percentile_interval
from lab.records.errors import EstimateError
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import SCORES
from tests.evidence import evidence_of

FAST = Analysis(n_boot=400)


def evidence(samples):
    """Evidence from (writer, problem, logp_base, logp_tuned, strict); numbered in the order given."""
    samples = pl.DataFrame(
        samples, schema=["writer", "problem_id", "logp_base", "logp_tuned", "strict"], orient="row"
    ).with_columns(
        pl.col("logp_base", "logp_tuned").cast(pl.Float64),
        pl.col("strict").cast(pl.Boolean),
        sample_index=pl.int_range(pl.len()).over("writer", "problem_id").cast(pl.Int32),
    )
    return evidence_of(
        samples.select(
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
        scores=samples.with_columns(n_tokens=pl.lit(1, dtype=pl.Int32), token_kl=pl.lit(0.0)).select(
            list(SCORES.dtypes)
        ),
    )


def drawn(problem, base, tuned, correct, of_base, of_tuned):
    """Samples of a problem with explicit policies over a few completions: which ones either model wrote."""
    return [
        (writer, problem, log(base[y]), log(tuned[y]), correct[y])
        for writer, written in (("base", of_base), ("tuned", of_tuned))
        for y in written
    ]


def row(table, quantity):
    return table.row(by_predicate=pl.col("quantity") == quantity, named=True)


BASE = np.array([0.06, 0.02, 0.5, 0.42])
TUNED = np.array([0.3, 0.4, 0.25, 0.05])
CORRECT = np.array([True, True, False, False])


def test_over_all_ways_to_sample_it_is_right_on_average():
    ways = list(product(range(4), repeat=3))  # one sample of the base, two of the tuned model
    chances = np.array([BASE[a] * TUNED[b] * TUNED[c] for a, b, c in ways])
    samples = [s for way in ways for s in drawn(str(way), BASE, TUNED, CORRECT, way[:1], way[1:])]
    found = base_rates(evidence(samples), [str(way) for way in ways])
    assert found.p0.max() < 1, "nothing was cut off"
    assert chances.sum() == pytest.approx(1)
    assert chances @ found.p0 == pytest.approx(0.08, rel=1e-12)
    assert np.unique(found.p0.round(9)).size > 5, "single ways differ, so the mean says something"


def test_samples_in_the_proportions_of_the_policies_give_the_exact_rate():
    base, tuned = np.array([0.1, 0.2, 0.7]), np.array([0.5, 0.4, 0.1])
    of_base, of_tuned = np.repeat([0, 1, 2], [1, 2, 7]), np.repeat([0, 1, 2], [10, 8, 2])
    found = base_rates(evidence(drawn("p", base, tuned, [True, False, False], of_base, of_tuned)), ["p"])
    assert found.p0[0] == pytest.approx(0.1, rel=1e-12)
    assert found.log_rest[0] == pytest.approx(log(0.9), rel=1e-12)


def test_without_tuned_samples_it_counts():
    found = base_rates(evidence(drawn("p", BASE, TUNED, CORRECT, [0, 1, 2, 2, 3], [])), ["p"])
    assert found.p0[0] == pytest.approx(2 / 5)
    assert found.ess[0] == pytest.approx(2)


def test_without_base_samples_it_is_plain_importance_sampling():
    found = base_rates(evidence(drawn("p", BASE, TUNED, CORRECT, [], [0, 1, 1, 2])), ["p"])
    ratios = np.array([0.06 / 0.3, 0.02 / 0.4, 0.02 / 0.4])
    assert found.p0[0] == pytest.approx(ratios.sum() / 4)
    assert found.ess[0] == pytest.approx(ratios.sum() ** 2 / (ratios**2).sum())


def test_a_planted_rate_of_one_in_ten_thousand_is_found_without_a_single_base_success():
    generator = np.random.default_rng(0)
    base = np.append(generator.dirichlet(np.ones(40)) * 1e-4, 1 - 1e-4)
    tuned = np.append(generator.dirichlet(np.ones(40)) * 0.9, 0.1)
    correct = np.arange(41) < 40
    of_base = generator.choice(41, size=64, p=base)
    of_tuned = generator.choice(41, size=2000, p=tuned)
    assert not correct[of_base].any()
    found = base_rates(evidence(drawn("p", base, tuned, correct, of_base, of_tuned)), ["p"])
    assert found.p0[0] == pytest.approx(1e-4, rel=0.3)
    assert found.ess[0] > 50


def test_it_agrees_with_counting_where_counting_works():
    generator = np.random.default_rng(1)
    samples, n_right = [], 0
    for problem in range(60):
        of_base = generator.choice(4, size=32, p=BASE)
        n_right += int(CORRECT[of_base].sum())
        samples += drawn(f"p{problem}", BASE, TUNED, CORRECT, of_base, generator.choice(4, size=32, p=TUNED))
    table = base_success(evidence(samples), FAST)
    counted, until, sampled = (
        row(table, f"base success, {how}") for how in ("counted", "PassUntil", "importance sampled")
    )
    assert counted["value"] == pytest.approx(n_right / (60 * 32))
    for found in (counted, until, sampled):
        assert found["low"] < 0.08 < found["high"]
    assert sampled["high"] - sampled["low"] < 0.7 * (counted["high"] - counted["low"]), "and it is more precise"


logps = st.floats(-800, 0)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from(["base", "tuned"]), logps, logps, st.booleans()), min_size=1, max_size=12))
def test_whatever_the_scores_it_is_a_probability_and_a_seen_failure_keeps_it_below_one(samples):
    found = base_rates(evidence([(w, "p", b, t, s) for w, b, t, s in samples]), ["p"])
    assert 0 <= found.p0[0] <= 1
    assert found.log_p0[0] <= 0
    assert found.p0[0] + np.exp(found.log_rest[0]) == pytest.approx(1, abs=1e-12)
    assert np.isfinite(found.log_p0[0]) == any(strict for *_, strict in samples)
    if not all(strict for *_, strict in samples):
        assert np.isfinite(found.log_rest[0])
    n_base = sum(writer == "base" for writer, *_ in samples)
    n_right = sum(strict for *_, strict in samples)
    if n_base:
        assert found.p0[0] <= n_right / n_base + 1e-12, "no sample counts more than a base sample does"
    if n_right:
        assert 1 - 1e-9 <= found.ess[0] <= n_right + 1e-9
    else:
        assert np.isnan(found.ess[0])


def test_a_rate_below_all_doubles_keeps_its_logarithm_and_its_bits():
    data = evidence([("base", "p", -0.1, -3.0, False), ("tuned", "p", -2000.0, -0.5, True)] * 2)
    found = base_rates(data, ["p"])
    assert found.p0[0] == 0
    assert found.log_p0[0] == pytest.approx(-1999.5)  # two tuned samples, each counting exp(-1999.5) / 2
    assert row(base_success(data, FAST), "bits of selection")["value"] == pytest.approx(1999.5 / log(2))
    assert row(base_success(data, FAST), "base-equivalent budget k*")["value"] == np.inf


def test_passuntil_is_unbiased():
    for chance, n in ((0.2, 9), (0.7, 6), (0.5, 3)):
        mean = sum(
            chance ** sum(way) * (1 - chance) ** (n - sum(way)) * pass_until(np.array(way, dtype=bool))
            for way in product((0, 1), repeat=n)
        )
        assert mean == pytest.approx(chance, rel=1e-12)


def test_passuntil_by_hand():
    assert pass_until(np.array([0, 1, 1, 0, 0, 1, 0, 1, 1, 1], dtype=bool)) == 3 / 7  # the fourth comes at try 8
    assert pass_until(np.array([0, 1, 1, 0, 1], dtype=bool)) == 3 / 5
    assert pass_until(np.array([0, 0], dtype=bool)) == 0


def one_success_in(p0, n_tuned=10, n_right=9, name="p"):
    """A problem whose scores give p0 by plain importance sampling, and whose tuned rate is n_right / n_tuned."""
    ratio = p0 * n_tuned / n_right
    right = ("tuned", name, log(0.5) + log(ratio), log(0.5), True)
    return [
        *[right] * n_right,
        *[("tuned", name, log(0.5), log(0.5), False)] * (n_tuned - n_right),
        *[("base", name, log(0.5), -1000.0, False)] * 10,
    ]


def test_that_many_base_samples_succeed_as_often_as_one_tuned_sample():
    data = evidence(one_success_in(0.01))
    p0 = base_rates(data, ["p"]).p0[0]
    budget = row(base_success(data, FAST), "base-equivalent budget k*")["value"]
    assert 1 - (1 - p0) ** budget == pytest.approx(9.5 / 11)
    assert budget == pytest.approx(log1p(-9.5 / 11) / log1p(-p0))
    assert row(base_success(data, FAST), "bits of selection")["value"] == pytest.approx(np.log2(0.9 / p0))


def test_a_perfect_score_asks_a_finite_budget_and_an_impossible_one_an_infinite():
    perfect = base_success(evidence(one_success_in(0.01, n_right=10)), FAST)
    assert 100 < row(perfect, "base-equivalent budget k*")["value"] < 1000
    # counted, but the scored samples hold no success
    data = evidence(one_success_in(0.01))
    failures = data.scores.join(
        data.verdicts.filter(~pl.col("strict")),
        left_on=["writer", "problem_id", "sample_index"],
        right_on=["arm", "problem_id", "sample_index"],
        how="semi",
    )
    table = base_success(replace(data, scores=failures), FAST)
    assert row(table, "base-equivalent budget k*")["value"] == np.inf
    assert row(table, "base success, importance sampled")["value"] == 0
    assert "no scored sample" in row(table, "effective sample size")["refusal"]
    assert row(table, "bits of selection")["refusal"]


def test_the_share_counts_the_gain_on_problems_within_reach():
    near = [s for i in range(30) for s in one_success_in(1e-2, n_right=9, name=f"near{i}")]
    far = [s for i in range(20) for s in one_success_in(1e-6, n_right=6, name=f"far{i}")]
    data = evidence(near + far)
    found = row(base_success(data, FAST), "gain within the base's reach")
    assert found["value"] == pytest.approx(30 * 0.9 / (30 * 0.9 + 20 * 0.6))
    assert found["low"] < found["value"] < found["high"]
    assert row(base_success(data, replace(FAST, reach=10)), "gain within the base's reach")["value"] == 0
    assert row(base_success(data, replace(FAST, reach=10**8)), "gain within the base's reach")["value"] == 1


def test_a_budget_that_is_infinite_on_most_problems_has_an_interval():
    never = [
        s
        for i in range(30)
        for s in [("base", f"n{i}", -1.0, -5.0, False)] * 4 + [("tuned", f"n{i}", -3000.0 - i, -1.0, True)] * 4
    ]
    found = row(base_success(evidence(never), FAST), "base-equivalent budget k*")
    assert (found["value"], found["low"], found["high"]) == (np.inf, np.inf, np.inf)
    few = row(base_success(evidence(never[:24]), FAST), "base-equivalent budget k*")
    assert np.isnan([few["low"], few["high"]]).all(), "three problems do not enclose a median"
    mixed = never + [s for i in range(28) for s in one_success_in(1e-2, name=f"near{i}")]
    found = row(base_success(evidence(mixed), FAST), "base-equivalent budget k*")
    assert found["value"] == np.inf
    assert 100 < found["low"] < 1000
    assert found["high"] == np.inf


def test_the_median_has_the_interval_of_the_medians_of_the_resamples():
    generator = np.random.default_rng(3)
    data = evidence(
        [
            ("tuned", f"p{i:02d}", -2.0 - generator.exponential(), -1.0, generator.random() < 0.7)
            for i in range(24)
            for _ in range(12)
        ]
        + [("base", f"p{i:02d}", -1.0, -1.0, False) for i in range(24)]
    )
    problems = problem_ids(data)
    ess = base_rates(data, problems).ess
    assert np.isfinite(ess).all()
    for seed in range(5):
        analysis = replace(FAST, seed=seed)
        medians = np.array([np.median(np.repeat(ess, times)) for times in problem_weights(data, analysis)])
        wanted = percentile_interval(float(np.median(ess)), medians, ess.size)
        found = row(base_success(data, analysis), "effective sample size")
        assert (found["value"], found["low"], found["high"]) == pytest.approx((wanted.value, wanted.low, wanted.high))


def test_without_scores_the_counted_rows_stand_and_the_others_say_why_not():
    data = evidence([s for i in range(4) for s in one_success_in(0.01, name=f"p{i}")])
    whole, table = base_success(data, FAST), base_success(replace(data, scores=SCORES.frame([])), FAST)
    assert sorted(table["quantity"]) == sorted(whole["quantity"])
    assert ESTIMATES.checked(table)["quantity"].is_unique().all()
    given_still = table.filter(pl.col("refusal").is_null())
    assert set(given_still["quantity"]) == {"base success, counted", "base success, PassUntil"}
    assert table.filter(pl.col("refusal").is_not_null())["refusal"].str.contains("no scores").all()


def test_what_does_not_fit_is_named():
    data = evidence([s for i in range(3) for s in one_success_in(0.01, name=f"p{i}")])
    with pytest.raises(EstimateError, match="no scores of problem 'p1'"):
        base_success(replace(data, scores=data.scores.filter(pl.col("problem_id") != "p1")), FAST)
    with pytest.raises(EstimateError, match="60 scores met 59 verdicts"):
        judged_scores(replace(data, verdicts=data.verdicts[1:]))
    with pytest.raises(EstimateError, match="'steered' wrote"):
        judged_scores(replace(data, scores=data.scores.with_columns(writer=pl.lit("steered"))))
    with pytest.raises(EstimateError, match="no verdicts of the arm 'base, sampled': there are tuned"):
        base_success(evidence_of(data.verdicts.filter(pl.col("arm") != "base"), scores=data.scores), FAST)
    for wrong in (0.5, -np.inf, np.nan):
        with pytest.raises(EstimateError, match=r"logp_base of sample 0 of problem 'p0' by tuned"):
            judged_scores(replace(data, scores=data.scores.with_columns(logp_base=pl.lit(wrong))))
