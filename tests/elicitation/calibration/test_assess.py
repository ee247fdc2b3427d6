"""Estimates of a case against its truth."""

from math import nan

import numpy as np
import polars as pl
import pytest

from elicitation.calibration import trials as assess_module
from elicitation.calibration.record import TRIALS
from elicitation.calibration.trials import SHARE_ESTIMATORS, assess
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import ESTIMATES, Analysis
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import Evidence
from tests.evidence import evidence_of

FAST = Analysis(n_boot=100)
NAMED = {"case": "mixed / 0", "kind": "MIXED", "seed": 0, "truth_low": 0.4, "truth_high": 0.6}
QUANTITY = "gain on problems the base solves when sampled"


def evidence(base: list[int], tuned: list[int], n: int = 8) -> Evidence:
    """Counts of strict successes among `n` samples of each problem, and nothing else."""
    return evidence_of(
        VERDICTS.frame(
            [
                {
                    "arm": arm,
                    "problem_id": f"p{problem:03d}",
                    "sample_index": sample,
                    "answer_correct": sample < count,
                    "process_valid": None,
                    "strict": sample < count,
                    "reason": "ok",
                    "read_by": "box",
                    "outcome": "right",
                }
                for arm, counts in (("base", base), ("tuned", tuned))
                for problem, count in enumerate(counts)
                for sample in range(n)
            ]
        ),
    )


# Half of the gain lies on problems that the base solves now and then.
HALF = evidence([1] * 30 + [0] * 30, [7] * 30 + [6] * 30)
NOISE = evidence([3, 4, 5, 2] * 5, [4, 3, 2, 6] * 5)


def assessed(data: Evidence, truth: float, *, estimates=None, n_replicas=20, seed=0, seconds=None) -> pl.DataFrame:
    return assess(
        NAMED,
        truth,
        coverage(data, FAST) if estimates is None else estimates,
        data,
        FAST,
        seconds or {},
        n_replicas=n_replicas,
        generator=np.random.default_rng(seed),
    )


def estimate_row(
    estimator: str, quantity: str, unit: str, value: float, refusal: str | None = None
) -> dict[str, object]:
    return {
        "estimator": estimator, "quantity": quantity, "unit": unit,
        "value": value, "low": value - 0.1, "high": value + 0.1, "refusal": refusal,
    }  # fmt: skip


def stub(*intervals: tuple[float, float]):
    """An estimator whose n-th call gives the n-th interval, or a refusal where that is NaN."""
    left = list(intervals)

    def estimator(data: Evidence, analysis: Analysis) -> pl.DataFrame:
        low, high = left.pop(0)
        refusal = "noise" if np.isnan(low) else None
        row: dict[str, object] = estimate_row("E9", "stub", "share", (low + high) / 2, refusal)
        row |= {"low": low, "high": high}
        return ESTIMATES.frame([row, row | {"unit": "nats"}])

    return estimator


def test_one_trial_for_each_share_and_none_for_other_units():
    estimates = ESTIMATES.frame(
        [
            estimate_row("E1", "a", "share", 0.5),
            estimate_row("E1", "b", "probability", 0.5),
            estimate_row("E2", "c", "share", nan, "the gap is noise"),
            estimate_row("E3", "d", "nats", 2.0),
        ]
    )
    trials = assessed(HALF, 0.5, estimates=estimates, n_replicas=0, seconds={"E2": 3.5})
    TRIALS.checked(trials)
    assert (
        trials.select("case", "kind", "seed", "truth", "truth_low", "truth_high").rows()
        == [("mixed / 0", "MIXED", 0, 0.5, 0.4, 0.6)] * 2
    )
    assert trials.select("estimator", "quantity", "refusal", "seconds").rows() == [
        ("E1", "a", None, 0.0),
        ("E2", "c", "the gap is noise", 3.5),
    ]
    assert trials.row(0, named=True)["value"] == 0.5
    assert (trials.row(0, named=True)["low"], trials.row(0, named=True)["high"]) == (0.4, 0.6)
    assert np.isnan(trials.row(1, named=True)["value"])


def test_coverage_is_the_fraction_of_replicas_whose_interval_holds_the_truth_ends_included(monkeypatch):
    intervals = ((0.4, 0.6), (0.5, 0.7), (0.3, 0.5), (0.51, 0.7), (0.2, 0.49), (nan, nan), (-1.0, 2.0), (0.6, 0.9))
    monkeypatch.setattr(assess_module, "SHARE_ESTIMATORS", (stub(*intervals),))
    estimates = ESTIMATES.frame([estimate_row("E9", "stub", "share", 0.5), estimate_row("E9", "other", "share", 0.5)])
    trials = assessed(HALF, 0.5, estimates=estimates, n_replicas=len(intervals))
    covered = trials["replicas_covered"].to_list()
    assert covered[0] == 4 / 8
    assert np.isnan(covered[1]), "no replica gave this share"


def test_a_truth_that_the_estimator_hits_is_covered_and_one_far_off_is_not():
    wanted = coverage(HALF, FAST).row(by_predicate=pl.col("quantity") == QUANTITY, named=True)["value"]
    assert wanted == pytest.approx(0.5)
    for truth, low, high in ((wanted, 0.7, 1.0), (1.5, 0.0, 0.0), (-1.0, 0.0, 0.0)):
        (trial,) = assessed(HALF, truth).filter(pl.col("estimator") == "E1").rows(named=True)
        assert low <= trial["replicas_covered"] <= high
        assert (trial["truth"], trial["value"]) == (truth, wanted)


def test_replicas_whose_share_is_refused_cover_nothing():
    (trial,) = assessed(NOISE, 0.5).filter(pl.col("estimator") == "E1").rows(named=True)
    assert trial["refusal"] is not None
    assert trial["replicas_covered"] == 0.0


@pytest.mark.parametrize(("truth", "n_replicas"), [(nan, 20), (0.5, 0)])
def test_without_a_truth_or_replicas_nothing_is_drawn_and_coverage_is_undefined(truth, n_replicas):
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    trials = assess(NAMED, truth, coverage(HALF, FAST), HALF, FAST, {}, n_replicas=n_replicas, generator=generator)
    assert generator.bit_generator.state == before
    assert trials["replicas_covered"].is_nan().all()


def test_every_replica_is_another_draw_of_the_problems(monkeypatch):
    seen = []

    def watching(data: Evidence, analysis: Analysis) -> pl.DataFrame:
        seen.append(data.verdicts.group_by("arm", "problem_id").agg(pl.col("strict").sum()).sort("arm", "problem_id"))
        return ESTIMATES.frame([])

    monkeypatch.setattr(assess_module, "SHARE_ESTIMATORS", (watching,))
    assessed(HALF, 0.5, n_replicas=6)
    assert [table.height for table in seen] == [120] * 6
    n_solved_by_base = [int((table["strict"] == 1).sum()) for table in seen]
    assert len(set(n_solved_by_base)) > 2
    assert all(15 < count < 45 for count in n_solved_by_base)


def test_equal_seeds_give_equal_trials():
    first, again = assessed(HALF, 0.45, seed=3), assessed(HALF, 0.45, seed=3)
    assert first.equals(again, null_equal=True)


def test_replicas_are_read_by_every_estimator_that_gives_a_share():
    estimates = pl.concat([estimator(HALF, FAST) for estimator in SHARE_ESTIMATORS])
    shares = estimates.filter(pl.col("unit") == "share")
    trials = assessed(HALF, 0.5, estimates=estimates, n_replicas=2)
    assert trials.select("estimator", "quantity").rows() == shares.select("estimator", "quantity").rows()
    assert trials["replicas_covered"].is_not_nan().all()
    assert set(trials["estimator"]) == {"E1", "E2", "E3", "E4", "E5"}
