import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.estimate import Analysis, problem_weights
from elicitation.estimators.forgetting import forgetting
from lab.metrics.bootstrap import mean_interval
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import SCORES
from tests.evidence import evidence_of

ANALYSIS = Analysis(n_boot=200)
KL, STRICT, ANSWER, PER_NAT = QUANTITIES = [
    "KL of base from tuned on the new task",
    "old-task drop, strict",
    "old-task drop, answer",
    "old-task drop per nat",
]
NATS = [1.0, 1.5, 2.0, 1.5, 1.0, 1.5, 2.0, 1.5, 1.0, 2.0]
OLD = {"base": [3, 4, 4, 2, 3, 4, 3, 4], "tuned": [2, 4, 1, 2, 1, 3, 3, 0]}


def verdicts(solved):
    """`VERDICTS` of arms given as counts of strict samples of 4 on each problem; one more answer is right by luck."""
    rows = [
        {
            "arm": arm,
            "problem_id": f"o{problem:02}",
            "sample_index": sample,
            "answer_correct": sample <= count,
            "process_valid": sample < count,
            "strict": sample < count,
            "reason": "ok",
            "read_by": "box",
            "outcome": "right",
        }
        for arm, counts in solved.items()
        for problem, count in enumerate(counts)
        for sample in range(4)
    ]
    return VERDICTS.frame(rows)


def scores(nats, writer="base"):
    """`SCORES` of two samples a problem whose log-ratios lie 1 nat on either side of `nats`."""
    return SCORES.frame(
        [
            {
                "writer": writer,
                "problem_id": f"p{problem:02}",
                "sample_index": sample,
                "n_tokens": 5,
                "logp_base": -3.0 - problem,
                "logp_tuned": -3.0 - problem - value - (-1) ** sample,
                "token_kl": 0.0,
            }
            for problem, value in enumerate(nats)
            for sample in range(2)
        ]
    )


def evidence(table, old, n_problems=10):
    new = {"base": [1] * n_problems, "tuned": [3] * n_problems}
    return evidence_of(
        verdicts(new).with_columns(pl.col("problem_id").str.replace("o", "p")),
        scores=table,
        old_verdicts=old,
    )


def rows(measured, analysis=ANALYSIS):
    return {row["quantity"]: row for row in forgetting(measured, analysis).to_dicts()}


def test_hand_arithmetic():
    found = rows(evidence(scores(NATS), verdicts(OLD)))
    assert found[KL]["value"] == pytest.approx(1.5)
    # strict: 27 of 32 and 16 of 32; answers: 4 4 4 3 4 4 4 4 and 3 4 2 3 2 4 4 1
    assert found[STRICT]["value"] == pytest.approx(27 / 32 - 16 / 32)
    assert found[ANSWER]["value"] == pytest.approx(31 / 32 - 23 / 32)
    assert found[PER_NAT]["value"] == pytest.approx((11 / 32) / 1.5)
    assert [found[quantity]["unit"] for quantity in QUANTITIES] == ["nats", "points", "points", "points"]
    for row in found.values():
        assert row["refusal"] is None
        assert row["low"] < row["value"] < row["high"]


def test_these_are_all_the_rows_and_e10_is_their_estimator():
    for measured in (evidence(scores(NATS), verdicts(OLD)), evidence(SCORES.frame([]), VERDICTS.frame([]))):
        frame = forgetting(measured, ANALYSIS)
        assert frame["quantity"].to_list() == QUANTITIES
        assert frame["estimator"].unique().to_list() == ["E10"]


def test_samples_of_the_tuned_model_say_nothing_of_this_divergence():
    both = pl.concat([scores(NATS), scores([9.0] * 10, writer="tuned")])
    assert rows(evidence(both, verdicts(OLD)))[KL]["value"] == pytest.approx(1.5)


def test_problems_count_the_same_however_many_samples_were_scored():
    table = scores(NATS).filter((pl.col("problem_id") != "p00") | (pl.col("sample_index") == 0))
    # the sample left of p00 has log-ratio 1 + 1
    assert rows(evidence(table, verdicts(OLD)))[KL]["value"] == pytest.approx(1.5 + 1 / 10)


def test_a_gain_on_the_old_task_is_a_negative_drop():
    found = rows(evidence(scores(NATS), verdicts({"base": OLD["tuned"], "tuned": OLD["base"]})))
    assert found[STRICT]["value"] == pytest.approx(-11 / 32)
    assert found[PER_NAT]["value"] == pytest.approx((-11 / 32) / 1.5)


def test_the_interval_of_the_ratio_holds_the_uncertainty_of_both():
    exact = rows(evidence(scores([1.5 + 0.001 * n for n in NATS]), verdicts(OLD)))
    noisy = rows(evidence(scores(NATS), verdicts(OLD)))

    def width(found, quantity):
        return (found[quantity]["high"] - found[quantity]["low"]) / found[quantity]["value"]

    assert width(exact, PER_NAT) == pytest.approx(width(exact, STRICT), rel=0.01)
    assert width(noisy, PER_NAT) > 1.03 * width(noisy, STRICT)


def test_a_drop_seen_nowhere_has_the_interval_of_the_rule_of_three_over_the_divergence():
    found = rows(evidence(scores(NATS), verdicts({"base": OLD["base"], "tuned": OLD["base"]})))
    assert found[PER_NAT]["value"] == 0
    assert found[STRICT]["high"] == pytest.approx(1 - 0.025 ** (1 / 8))
    assert found[PER_NAT]["high"] == pytest.approx(found[STRICT]["high"] / 1.5)
    assert found[PER_NAT]["low"] == pytest.approx(found[STRICT]["low"] / 1.5)


def test_old_and_new_problems_are_resampled_apart():
    nats = [1.0 + 0.1 * index for index in range(10)]
    drops = verdicts({"base": [4] * 10, "tuned": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]})
    found = rows(evidence(scores(nats), drops), Analysis(n_boot=2000))
    # drop falls as the divergence rises: shared draws would spread the ratio by a fifth more than independent ones
    value, drop, kl = (found[quantity]["value"] for quantity in (PER_NAT, STRICT, KL))
    spreads = [np.std(per, ddof=1) / np.sqrt(10) for per in (np.repeat(np.arange(5), 2) / 4, nats)]
    independent = value * np.hypot(spreads[0] / drop, spreads[1] / kl)
    shared = value * (spreads[0] / drop + spreads[1] / kl)
    width = (found[PER_NAT]["high"] - found[PER_NAT]["low"]) / (2 * 2.262)
    assert abs(width - independent) < abs(width - shared) / 2


@pytest.mark.parametrize("nats", [[3.0, -2.0] * 5, [-1.5, -1.6] * 5, [0.0] * 10])
def test_the_ratio_is_refused_where_the_divergence_is_noise_negative_or_nothing(nats):
    found = rows(evidence(scores(nats), verdicts(OLD)))
    assert "5 standard errors are needed" in found[PER_NAT]["refusal"]
    assert np.isnan([found[PER_NAT][end] for end in ("value", "low", "high")]).all()
    assert all(found[quantity]["refusal"] is None for quantity in (KL, STRICT, ANSWER))


def test_without_scores_the_divergence_and_the_ratio_are_refused():
    for table in (SCORES.frame([]), scores(NATS, writer="tuned")):
        found = rows(evidence(table, verdicts(OLD)))
        assert [quantity for quantity in found if found[quantity]["refusal"]] == [KL, PER_NAT]
        assert all("no scores of the base" in found[quantity]["refusal"] for quantity in (KL, PER_NAT))
        assert np.isnan([found[quantity]["value"] for quantity in (KL, PER_NAT)]).all()


@pytest.mark.parametrize("old", [{}, {"base": OLD["base"]}])
def test_without_both_models_on_the_same_old_problems_the_drops_are_refused(old):
    found = rows(evidence(scores(NATS), verdicts(old)))
    assert [quantity for quantity in found if found[quantity]["refusal"]] == [STRICT, ANSWER, PER_NAT]
    counts = f"on {len(old.get('base', []))} problems of an old task, the tuned one on {len(old.get('tuned', []))}"
    assert all(counts in found[quantity]["refusal"] for quantity in (STRICT, ANSWER, PER_NAT))


def test_scores_may_cover_some_of_the_problems():
    table = scores(NATS).with_columns(pl.col("problem_id").str.replace("p0", "p2"))
    measured = evidence(table, verdicts(OLD), n_problems=30)
    row = rows(measured)[KL]
    assert row["value"] == pytest.approx(1.5)
    weights = problem_weights(measured, ANALYSIS)[:, 20:]
    wanted = mean_interval(np.array(NATS), weights, bounds=(-np.inf, np.inf))
    assert (row["low"], row["high"]) == pytest.approx((wanted.low, wanted.high))


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_the_names_of_problems_matter(seed):
    generator = np.random.default_rng(seed)
    table = scores(generator.normal(2, 0.5, size=10).tolist())
    old = verdicts({arm: generator.integers(0, 5, size=12).tolist() for arm in ("base", "tuned")})
    found = forgetting(evidence(table, old), ANALYSIS)
    again = forgetting(
        evidence(table[generator.permutation(len(table))], old[generator.permutation(len(old))]), ANALYSIS
    )
    for column in ("value", "low", "high"):
        assert again[column].to_list() == pytest.approx(found[column].to_list(), nan_ok=True)

    def renamed(frame, letter, n):
        drawn = generator.permutation(n)
        names = {f"{letter}{index:02}": f"{letter}{other:02}" for index, other in enumerate(drawn)}
        return frame.with_columns(pl.col("problem_id").replace(names))

    values = forgetting(evidence(renamed(table, "p", 10), renamed(old, "o", 12)), ANALYSIS)["value"].to_list()
    assert values == pytest.approx(found["value"].to_list(), nan_ok=True)
