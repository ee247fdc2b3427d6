"""The published methods as shares: hand arithmetic of both formulas, and silence where they were not run."""

import numpy as np
import polars as pl
import pytest

from elicitation.estimators.estimate import Analysis
from elicitation.estimators.ladder_share import published_share
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import Evidence
from tests.evidence import evidence_of

ANALYSIS = Analysis(n_boot=200)


def evidence(rates: dict[str, float], n_problems: int = 40) -> Evidence:
    """Every arm solves the first part of the problems."""
    rows = []
    for arm, rate in rates.items():
        for index in range(n_problems):
            right = index < rate * n_problems
            rows.append(
                {
                    "arm": arm,
                    "problem_id": f"p{index:03d}",
                    "sample_index": 0,
                    "answer_correct": right,
                    "process_valid": right,
                    "strict": right,
                    "reason": "ok" if right else "answer",
                    "read_by": "box",
                    "outcome": "right" if right else "wrong",
                }
            )
    return evidence_of(
        VERDICTS.frame(rows),
    )


ENDS = {"base": 0.2, "base greedy": 0.2, "tuned": 1.0, "tuned greedy": 1.0}


def test_both_formulas_agree_where_the_method_lies_between_the_models():
    found = published_share(evidence(ENDS | {"first method": 0.6}), ANALYSIS)
    assert found["estimator"].to_list() == ["P1", "P1"]
    assert found["value"].to_list() == pytest.approx([0.5, 0.5])
    theirs, ours = found.iter_rows(named=True)
    assert np.isnan([theirs["low"], theirs["high"]]).all()
    assert ours["low"] < 0.5 < ours["high"]


def test_harm_is_lifted_to_nothing_by_their_formula_alone():
    found = published_share(evidence(ENDS | {"second method": 0.0}), ANALYSIS)
    assert found["value"].to_list() == pytest.approx([0.0, -0.25])


def test_a_gap_of_noise_is_refused_with_an_interval_and_given_by_their_formula():
    ends = {"base": 0.5, "base greedy": 0.5, "tuned": 0.55, "tuned greedy": 0.55}
    theirs, ours = published_share(evidence(ends | {"first method": 0.55}), ANALYSIS).iter_rows(named=True)
    assert theirs["value"] == pytest.approx(1.0)
    assert theirs["refusal"] is None
    assert "standard errors" in ours["refusal"]


@pytest.mark.parametrize("missing", ["first method", "base greedy", "tuned greedy"])
def test_what_was_not_run_has_no_row(missing):
    rates = {arm: rate for arm, rate in (ENDS | {"first method": 0.6}).items() if arm != missing}
    assert isinstance(published_share(evidence(rates), ANALYSIS), pl.DataFrame)
    assert published_share(evidence(rates), ANALYSIS).is_empty()
