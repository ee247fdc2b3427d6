"""Evidence is refused where its tables do not speak of the same problems."""

import polars as pl
import pytest

from elicitation.estimators.estimate import Analysis, rates
from elicitation.estimators.panel import panel
from lab.records.errors import EstimateError
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import PROCESS, RANKS, SCORES, Evidence


def verdicts(**solved: list[str]) -> pl.DataFrame:
    return VERDICTS.frame(
        [
            {
                "arm": arm,
                "problem_id": problem,
                "sample_index": 0,
                "answer_correct": True,
                "process_valid": True,
                "strict": True,
                "reason": "ok",
            }
            for arm, problems in solved.items()
            for problem in problems
        ]
    )


def evidence(of: pl.DataFrame, old: pl.DataFrame | None = None, scored: str | None = None) -> Evidence:
    scores = SCORES.frame(
        []
        if scored is None
        else [
            {
                "writer": "base",
                "problem_id": scored,
                "sample_index": 0,
                "n_tokens": 3,
                "logp_base": -1.0,
                "logp_tuned": -2.0,
                "token_kl": 1.0,
            }
        ]
    )
    return Evidence(
        verdicts=of,
        scores=scores,
        ranks=RANKS.frame([]),
        process=PROCESS.frame([]),
        old_verdicts=VERDICTS.frame([]) if old is None else old,
    )


def test_arms_on_different_problems_are_refused_by_name():
    with pytest.raises(EstimateError, match="'tuned' has 1 of 2 problems"):
        evidence(verdicts(base=["a", "b"], tuned=["b"]))
    with pytest.raises(EstimateError, match="in old_verdicts the arm 'base' has 1 of 2"):
        evidence(verdicts(base=["a"]), verdicts(base=["c"], tuned=["c", "d"]))


def test_two_arms_that_lack_different_problems_are_not_paired_by_their_number():
    with pytest.raises(EstimateError, match="1 of 2 problems"):
        evidence(verdicts(base=["a"], tuned=["b"]))


def test_scores_of_an_unknown_problem_are_refused():
    with pytest.raises(EstimateError, match="scores has rows of 'z'"):
        evidence(verdicts(base=["a"]), scored="z")
    assert evidence(verdicts(base=["a"]), scored="a").scores.height == 1


def test_rates_of_a_missing_arm_name_those_there_are():
    with pytest.raises(EstimateError, match="no verdicts of the arm 'tuned': there are base"):
        rates(verdicts(base=["a"]), "tuned")


def test_no_estimator_gives_a_share_of_a_loss():
    names = [f"p{index:02d}" for index in range(40)]
    worse = pl.concat(
        [
            verdicts(**{arm: names}).with_columns(strict=pl.lit(solved), sample_index=pl.lit(index, dtype=pl.Int32))
            for arm, solved in (("base", True), ("tuned", False), ("base greedy", True), ("tuned greedy", False))
            for index in range(8)
        ]
    )
    shares = panel(evidence(worse), Analysis(n_boot=200)).filter(pl.col("unit") == "share")
    assert shares.height >= 6
    assert shares["refusal"].null_count() == 0
    assert "no gain to share out" in shares.filter(pl.col("estimator") == "E1")["refusal"][0]
