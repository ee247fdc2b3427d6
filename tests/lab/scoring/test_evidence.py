"""Evidence is refused where its tables do not speak of the same problems."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from elicitation.estimators.estimate import Analysis, rates
from elicitation.estimators.ladder_share import published_share
from elicitation.estimators.panel import ESTIMATORS, panel
from lab.records.errors import EstimateError
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import SCORES, ArmKey, Evidence, Role, arm_of
from tests.evidence import KEYS, arms_of, evidence_of


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
                "read_by": "box",
                "outcome": "right",
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
    return evidence_of(
        of,
        scores=scores,
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


def test_arms_that_are_not_those_of_the_verdicts_are_refused():
    of = verdicts(base=["a"], tuned=["a"])
    for arms in (arms_of(of)[:1], pl.concat([arms_of(of), arms_of(of)])):
        with pytest.raises(EstimateError, match="want the same, each once"):
            replace(evidence(of), arms=arms)


def test_an_arm_is_found_by_its_key_and_several_of_one_key_are_refused():
    both = evidence(verdicts(**{"random": ["a"], "vector": ["a"], "vector greedy": ["a"]}))
    assert [arm_of(both, KEYS[name]) for name in both.arms["arm"]] == both.arms["arm"].to_list()
    assert arm_of(both, ArmKey(Role.BASE)) is None
    with pytest.raises(EstimateError, match="random, vector are all vector-first-token, sampled"):
        arm_of(replace(both, arms=both.arms.with_columns(control=pl.lit(None, pl.String))), KEYS["vector"])


@pytest.mark.parametrize("estimator", [*ESTIMATORS.values(), published_share])
def test_what_arms_are_called_does_not_matter(estimator):
    generator = np.random.default_rng(0)
    table = pl.concat(
        [
            verdicts(**{name: [f"p{index:02d}" for index in range(12)]}).with_columns(
                strict=pl.Series(generator.random(12) < (0.9 if "tuned" in name else 0.3)),
                sample_index=pl.lit(sample, dtype=pl.Int32),
            )
            for name in KEYS
            for sample in range(1 if KEYS[name].decoding == "greedy" else 8)
        ]
    )
    plain = evidence(table)
    names = {name: f"arm {index}" for index, name in enumerate(KEYS)}
    called = {field: getattr(plain, field).with_columns(pl.col("arm").replace(names)) for field in ("arms", "verdicts")}
    wanted, found = (
        estimator(data, Analysis(n_boot=100)).with_columns(refused=pl.col("refusal").is_not_null())
        for data in (plain, replace(plain, **called))
    )
    # The reason of a refusal may name the arms.
    assert_frame_equal(found.drop("refusal"), wanted.drop("refusal"))


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
