import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.estimators.estimate import Analysis
from elicitation.estimators.ladder_share import ladder_share
from lab.sampling.trace import VERDICTS
from tests.evidence import KEYS, evidence_of

ANALYSIS = Analysis(n_boot=200)
SHARES = ["fitted vector at the first token, sampled", "fitted vector at the first token, greedy"]
POINTS = [
    "random vectors, sampled",
    "random vectors, greedy",
    "fitted over random, sampled",
    "fitted over random, greedy",
]
N = 20
SOLVED = {
    # strict samples of 4 on each of 20 problems, then single greedy ones
    "base": [0] * 10 + [1] * 10,
    "tuned": [4] * 10 + [3] * 10,
    "vector": [1, 3] * 10,
    "random": [1] * 20,
    "base greedy": [0] * 16 + [1] * 4,
    "tuned greedy": [1] * 20,
    "vector greedy": [0] * 8 + [1] * 12,
    "random greedy": [0] * 18 + [1] * 2,
}


def verdicts(solved):
    """`VERDICTS` of arms given as counts of strict samples on each problem; every answer is right."""
    rows = [
        {
            "arm": arm,
            "problem_id": f"p{problem:02}",
            "sample_index": sample,
            "answer_correct": True,
            "process_valid": sample < count,
            "strict": sample < count,
            "reason": "ok",
            "read_by": "box",
            "outcome": "right",
        }
        for arm, counts in solved.items()
        for problem, count in enumerate(counts)
        for sample in range(1 if arm.endswith("greedy") else 4)
    ]
    return VERDICTS.frame(rows)


def evidence(table):
    return evidence_of(
        table,
    )


def rows(table):
    return {row["quantity"]: row for row in ladder_share(evidence(table), ANALYSIS).to_dicts()}


def test_shares_are_of_the_gap_between_arms_decoded_alike():
    found = rows(verdicts(SOLVED))
    # sampled: base 1/8, tuned 7/8, fitted 1/2; greedy: base 4/20, tuned 1, fitted 12/20
    assert found[SHARES[0]]["value"] == pytest.approx((1 / 2 - 1 / 8) / (7 / 8 - 1 / 8))
    assert found[SHARES[1]]["value"] == pytest.approx((12 - 4) / (20 - 4))
    for quantity in SHARES:
        assert found[quantity]["unit"] == "share"
        assert found[quantity]["low"] < found[quantity]["value"] < found[quantity]["high"]


def test_the_controls_are_differences_in_points():
    found = rows(verdicts(SOLVED))
    wanted = [1 / 4 - 1 / 8, 2 / 20 - 4 / 20, 1 / 2 - 1 / 4, 12 / 20 - 2 / 20]
    assert [found[quantity]["value"] for quantity in POINTS] == pytest.approx(wanted)
    assert {found[quantity]["unit"] for quantity in POINTS} == {"points"}


def test_these_are_all_the_rows_and_e5_is_their_estimator():
    frame = ladder_share(evidence(verdicts(SOLVED)), ANALYSIS)
    assert frame["quantity"].to_list() == SHARES + POINTS
    assert frame["estimator"].unique().to_list() == ["E5"]


def test_greedy_decoding_itself_counts_as_no_help():
    # greedy decoding lifts the base from 1/8 to 6/20, and the vector adds nothing to that
    found = rows(verdicts(SOLVED | dict.fromkeys(("base greedy", "vector greedy"), [0] * 14 + [1] * 6)))
    assert found[SHARES[1]]["refusal"] is None
    assert found[SHARES[1]]["value"] == 0


def test_a_sampled_gap_of_noise_refuses_both_shares_and_no_control():
    found = rows(verdicts(SOLVED | {"tuned": [1] * 10 + [0] * 9 + [1]}))
    for quantity in SHARES:
        assert "standard errors" in found[quantity]["refusal"]
        assert np.isnan([found[quantity][end] for end in ("value", "low", "high")]).all()
    assert all(found[quantity]["refusal"] is None for quantity in POINTS)


def test_a_greedy_gap_of_noise_refuses_the_greedy_share_alone_and_says_whose_gap_it_is():
    found = rows(verdicts(SOLVED | {"tuned greedy": [0] * 15 + [1] * 5}))
    assert found[SHARES[0]]["refusal"] is None
    assert "'tuned greedy' and 'base greedy'" in found[SHARES[1]]["refusal"]
    assert np.isnan(found[SHARES[1]]["value"])


@pytest.mark.parametrize(
    ("arm", "refused"),
    [
        ("vector", [SHARES[0], POINTS[2]]),
        ("random greedy", [POINTS[1], POINTS[3]]),
        ("tuned greedy", [SHARES[1]]),
        ("tuned", SHARES),
        ("base", [*SHARES, POINTS[0]]),
    ],
)
def test_a_missing_arm_refuses_what_needs_it_by_name(arm, refused):
    found = rows(verdicts(SOLVED).filter(pl.col("arm") != arm))
    assert [quantity for quantity in found if found[quantity]["refusal"]] == refused
    assert all(f"'{KEYS[arm]}'" in found[quantity]["refusal"] for quantity in refused)


def test_without_any_verdicts_every_row_is_refused():
    found = rows(VERDICTS.frame([]))
    assert list(found) == SHARES + POINTS
    assert all("no verdicts" in row["refusal"] and np.isnan(row["value"]) for row in found.values())


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_neither_the_order_of_rows_nor_the_names_of_problems_matter(seed):
    generator = np.random.default_rng(seed)
    counts = {arm: generator.integers(0, 2 if arm.endswith("greedy") else 5, size=N).tolist() for arm in SOLVED}
    table = verdicts(SOLVED | {arm: counts[arm] for arm in ("vector", "vector greedy", "random greedy")})
    found = ladder_share(evidence(table), ANALYSIS)
    mixed = table[generator.permutation(len(table))]
    assert ladder_share(evidence(mixed), ANALYSIS).equals(found)
    names = dict(zip((f"p{i:02}" for i in range(N)), (f"q{i:02}" for i in generator.permutation(N)), strict=True))
    renamed = table.with_columns(pl.col("problem_id").replace(names))
    values = ladder_share(evidence(renamed), ANALYSIS)["value"].to_list()
    assert values == pytest.approx(found["value"].to_list(), nan_ok=True)
