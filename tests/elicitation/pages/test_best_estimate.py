"""The best-calibrated estimate is named with its record, or why it gives none."""

import re
from math import nan

import polars as pl

from elicitation.calibration.record import RECORDS
from elicitation.estimators.estimate import ESTIMATES
from elicitation.pages.study.ladder import best_estimate


def record(quantity, error, coverage):
    return {
        "estimator": "E2",
        "quantity": quantity,
        "n_trials": 10,
        "n_refused": 0,
        "mean_absolute_error": error,
        "worst_error": error,
        "bias": 0.0,
        "coverage": coverage,
        "coverage_replicas": nan,
        "leak": 0.01,
        "n_false_alarms": 0,
        "n_silent": 4,
        "seconds": 1.0,
    }


RECORDED = RECORDS.frame([record("poor", 0.2, 0.3), record("good", 0.02, 1.0), record("narrow", 0.01, 0.5)])


def estimates(refusal=None):
    return ESTIMATES.frame(
        [
            {
                "estimator": "E2",
                "quantity": quantity,
                "unit": "share",
                "value": nan if refusal else value,
                "low": nan if refusal else value - 0.1,
                "high": nan if refusal else value + 0.1,
                "refusal": refusal,
            }
            for quantity, value in (("poor", 0.3), ("good", 0.6), ("narrow", 0.9))
        ]
    )


def test_the_smallest_error_among_those_that_meet_the_goal_is_named_with_its_record():
    words = best_estimate(estimates(), RECORDED)
    assert re.sub(r"\s", " ", words).startswith(
        "60 % [50, 70] of the gain was already in the base model, by E2 (good), which has the best record of those "
        "that do not ask the tuned model (on organisms of known share: mean error 2.0 points"
    )
    assert "mean error 2.0 points" in words


def test_an_estimator_that_asks_the_tuned_model_does_not_speak_for_the_base():
    asking = pl.when(pl.col("quantity") == "good").then(pl.lit("E4")).otherwise(pl.col("estimator")).alias("estimator")
    assert "E2 (narrow)" in best_estimate(estimates().with_columns(asking), RECORDED.with_columns(asking))


def test_the_next_in_line_speaks_where_the_first_refuses():
    refusing = pl.when(pl.col("quantity") == "good").then(pl.lit("no arm")).otherwise(None).alias("refusal")
    assert "E2 (narrow)" in best_estimate(estimates().with_columns(refusing), RECORDED)


def test_a_refusal_is_passed_on_with_its_reason():
    assert best_estimate(estimates("the gap is noise"), RECORDED).endswith("gives no share: the gap is noise.")


def test_nothing_is_said_without_records_or_without_the_estimate():
    assert best_estimate(estimates(), RECORDS.frame([])) == ""
    assert best_estimate(ESTIMATES.frame([]), RECORDED) == ""
