import math

import pytest

from elicitation.calibration.record import TRIALS, agreement

NAN = math.nan


def trial(case: str, estimator: str, value: float, refusal: str | None = None) -> dict[str, object]:
    return {
        "case": case, "kind": "MIXED", "seed": 0, "truth": 0.5, "truth_low": 0.5, "truth_high": 0.5,
        "estimator": estimator, "quantity": "share", "value": value, "low": value, "high": value,
        "refusal": refusal, "replicas_covered": NAN, "seconds": 0.0,
    }  # fmt: skip


def test_two_shares_differ_by_the_mean_and_the_largest_distance_over_their_common_trials():
    frame = agreement(
        TRIALS.frame(
            [
                trial("a", "E5", 0.5),
                trial("a", "E2", 0.6),
                trial("b", "E2", 0.4),
                trial("b", "E5", 0.7),
                trial("c", "E2", NAN, "no gap"),
                trial("c", "E5", 0.7),
                trial("d", "E2", 0.1),
            ]
        )
    )
    assert frame.rows() == [("E5: share", "E2: share", 2, pytest.approx(0.2), pytest.approx(0.3))]


def test_shares_that_never_met_have_no_distance():
    frame = agreement(TRIALS.frame([trial("a", "E1", 0.5), trial("b", "E2", 0.5), trial("a", "E3", 0.5)]))
    assert frame.select("first", "second", "n_trials").rows() == [
        ("E1: share", "E2: share", 0),
        ("E1: share", "E3: share", 1),
        ("E2: share", "E3: share", 0),
    ]
    assert math.isnan(frame["mean_absolute_difference"][0])
    assert math.isnan(frame["largest_difference"][0])


def test_one_share_or_none_has_nothing_to_agree_with():
    assert agreement(TRIALS.frame([trial("a", "E1", 0.5)])).is_empty()
    assert agreement(TRIALS.frame([])).is_empty()
