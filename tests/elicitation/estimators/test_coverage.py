from dataclasses import replace
from math import exp, log

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import ESTIMATES, Analysis
from lab.records.errors import EstimateError
from tests.evidence import evidence_of

FAST = Analysis(n_boot=400)


def evidence(base, tuned):
    """Evidence from strict verdicts, a row of 0 and 1 a problem, for either arm."""
    rows = [
        (arm, f"p{index:04d}", sample, verdict == 1)
        for arm, problems in (("base", base), ("tuned", tuned))
        for index, tries in enumerate(problems)
        for sample, verdict in enumerate(tries)
    ]
    verdicts = pl.DataFrame(rows, schema=["arm", "problem_id", "sample_index", "strict"], orient="row").select(
        "arm",
        "problem_id",
        pl.col("sample_index").cast(pl.Int32),
        answer_correct="strict",
        process_valid=pl.lit(None, dtype=pl.Boolean),
        strict="strict",
        reason=pl.lit("ok"),
        read_by=pl.lit("box"),
        outcome=pl.lit("right"),
    )
    return evidence_of(
        verdicts,
    )


def row(table, quantity):
    return table.row(by_predicate=pl.col("quantity") == quantity, named=True)


def tries(n_correct, n):
    return [1] * n_correct + [0] * (n - n_correct)


def counted(counts, n):
    return [tries(count, n) for count in counts]


def test_solved_sets_by_hand():
    # both models solve three problems, the base alone one, the tuned model alone two, neither the last
    table = coverage(evidence(counted([8, 1, 2, 1, 0, 0, 0], 8), counted([8, 8, 1, 0, 1, 5, 0], 8)), FAST)
    assert row(table, "SRR")["value"] == pytest.approx(3 / 4)
    assert row(table, "NDR")["value"] == pytest.approx(2 / 5)
    assert row(table, "SDS")["value"] == pytest.approx(2 * 0.75 * 0.4 / 1.15)
    assert row(table, "NSCR")["value"] == pytest.approx((2 - 1) / 6)
    for quantity in ("SRR", "NDR", "SDS", "NSCR"):
        found = row(table, quantity)
        assert found["low"] < found["value"] < found["high"]
        assert found["unit"] == "problems"


def test_rates_and_their_difference_by_hand():
    # of 8 samples, 4 right: pass@2 = 1 - C(4, 2) / C(8, 2) = 1 - 6 / 28; 1 right: 2 / 8
    table = coverage(evidence(counted([4, 0], 8), counted([8, 1], 8)), FAST)
    assert row(table, "strict pass@1, base")["value"] == pytest.approx(0.25)
    assert row(table, "strict pass@1, tuned")["value"] == pytest.approx(9 / 16)
    assert row(table, "strict pass@2, base")["value"] == pytest.approx((1 - 6 / 28) / 2)
    assert row(table, "strict pass@2, tuned")["value"] == pytest.approx((1 + 0.25) / 2)
    gain = row(table, "tuned minus base, pass@2")
    assert (gain["value"], gain["unit"]) == (pytest.approx((1 + 0.25 - 1 + 6 / 28) / 2), "points")
    assert row(table, "Cover@0.5, base")["value"] == 0.5
    assert row(table, "Cover@0.5, tuned")["value"] == 0.5


@pytest.mark.parametrize(("n", "k"), [(8, 2), (15, 2), (16, 4), (31, 4), (40, 8), (64, 16)])
def test_k_is_the_largest_power_of_two_with_four_samples_a_try(n, k):
    table = coverage(evidence(counted([1, 2], n), counted([3, 4], n + 9)), FAST)
    assert row(table, f"strict pass@{k}, tuned")["refusal"] is None
    assert table["quantity"].str.contains(f"pass@{2 * k}", literal=True).sum() == 0


def test_with_too_few_samples_pass_at_k_is_refused_and_rows_keep_their_names_apart():
    table = coverage(evidence(counted([1, 2, 0], 7), counted([3, 4, 7], 20)), FAST)
    refused = table.filter(pl.col("refusal").is_not_null())
    assert set(refused["quantity"]) >= {"strict pass@2, base", "strict pass@2, tuned", "tuned minus base, pass@2"}
    assert "8 samples" in row(table, "strict pass@2, base")["refusal"]
    assert table["quantity"].is_unique().all()


def test_an_arm_with_more_samples_does_not_solve_more_for_it():
    late = [[0] * 8 + [1] * 8, [1] + [0] * 15, [1] * 16]
    data = evidence(counted([1, 0, 1], 8), late)
    table = coverage(data, FAST)
    backwards = replace(data, verdicts=data.verdicts.reverse())
    assert_frame_equal(coverage(backwards, FAST), table, check_exact=True)  # the first samples are not the first rows
    # the first problem is solved by the tuned model too late: P = 1, E = 1, S = 1
    assert row(table, "SRR")["value"] == 0.5
    assert row(table, "NDR")["value"] == 0.5
    assert row(table, "NSCR")["value"] == 0
    assert row(table, "strict pass@1, tuned")["value"] == pytest.approx((8 + 1 + 16) / 48), "rates use all samples"
    assert row(table, "detectability floor")["value"] == pytest.approx(log(20) / 8)


def test_a_success_rate_at_the_floor_is_missed_with_chance_one_in_twenty():
    floor = row(coverage(evidence(counted([1], 500), counted([1], 500)), FAST), "detectability floor")
    assert (1 - floor["value"]) ** 500 == pytest.approx(0.05, rel=0.02)
    assert exp(-500 * floor["value"]) == pytest.approx(0.05)
    assert floor["low"] == floor["value"] == floor["high"]


def test_ratios_without_a_denominator_are_refused():
    table = coverage(evidence(counted([0, 0, 0], 8), counted([0, 0, 0], 8)), FAST)
    for quantity, words in (("SRR", "base model"), ("NDR", "tuned model"), ("SDS", "base model"), ("NSCR", "neither")):
        found = row(table, quantity)
        assert words in found["refusal"]
        assert np.isnan([found["value"], found["low"], found["high"]]).all()
    only_tuned = coverage(evidence(counted([0, 0, 0], 8), counted([1, 1, 1], 8)), FAST)
    assert row(only_tuned, "SRR")["refusal"]
    assert row(only_tuned, "NDR")["value"] == 1


def test_three_solved_problems_among_two_hundred_give_no_certainty():
    n_solved = 3
    counts = [4] * n_solved + [0] * (200 - n_solved)
    table = coverage(evidence(counted(counts, 8), counted(counts, 8)), FAST)
    for quantity in ("SRR", "NSCR"):
        found = row(table, quantity)
        assert found["high"] - found["low"] > 0.5, "the ratio rests on three problems, not on 200"
    new = row(table, "SDS")
    assert new["value"] == 0
    assert new["high"] > 0.5


def test_the_share_is_the_gain_where_the_base_succeeds_at_all():
    # 30 problems from 1/10 to 7/10, 30 from 3/10 to 9/10, 40 from 0 to 8/10: 36 of 68 lie where the base succeeds
    found = row(
        coverage(
            evidence(counted([1] * 30 + [3] * 30 + [0] * 40, 10), counted([7] * 30 + [9] * 30 + [8] * 40, 10)), FAST
        ),
        "gain on problems the base solves when sampled",
    )
    assert found["unit"] == "share"
    assert found["value"] == pytest.approx(60 * 0.6 / (60 * 0.6 + 40 * 0.8))
    assert found["low"] < found["value"] < found["high"]


def test_a_loss_counts_against_the_share():
    # 50 problems lose 2/10 where the base succeeds, 50 gain 8/10 where it does not
    found = row(
        coverage(evidence(counted([4] * 50 + [0] * 50, 10), counted([2] * 50 + [8] * 50, 10)), FAST),
        "gain on problems the base solves when sampled",
    )
    assert found["value"] == pytest.approx(-0.2 / (0.8 - 0.2))


def test_a_gap_that_may_be_noise_has_no_share():
    found = row(
        coverage(evidence(counted([3, 4, 5, 2] * 10, 10), counted([4, 3, 2, 6] * 10, 10)), FAST),
        "gain on problems the base solves when sampled",
    )
    assert "standard errors" in found["refusal"]
    assert np.isnan(found["value"])


def test_a_missing_arm_is_named():
    whole = evidence(counted([1, 2], 8), counted([3, 4], 8))
    with pytest.raises(EstimateError, match="no verdicts of the arm 'tuned, sampled': there are base"):
        coverage(evidence_of(whole.verdicts.filter(pl.col("arm") != "tuned")), FAST)


def test_every_row_is_named_once():
    table = coverage(evidence(counted([1, 2], 8), counted([3, 4], 8)), FAST)
    assert ESTIMATES.checked(table)["quantity"].is_unique().all()
    assert set(table["estimator"]) == {"E1"}
