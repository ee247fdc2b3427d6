"""Replicas: evidence on a problem set that was drawn again."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elicitation.calibration.trials import replica
from elicitation.estimators.coverage import coverage
from elicitation.estimators.estimate import Analysis
from elicitation.estimators.kl_split import kl_split, split
from elicitation.estimators.token_ranks import token_ranks
from lab.sampling.trace import VERDICTS
from lab.scoring.evidence import PROCESS, RANKS, SCORES, Evidence
from tests.evidence import evidence_of

FAST = Analysis(n_boot=100)
TABLES = ("verdicts", "scores", "ranks", "process", "old_verdicts")
SEEDS = st.integers(0, 10_000)
# What tells one problem's rows from all others': a number drawn for it, which its copies must carry along.
MARKS = {
    "verdicts": "reason",
    "scores": "logp_base",
    "ranks": "entropy",
    "process": "logp_answer",
    "old_verdicts": "reason",
}


def verdicts(prefix: str, n_problems: int, n: int, generator) -> pl.DataFrame:
    rates = {"base": generator.beta(0.5, 2, size=n_problems), "tuned": generator.beta(4, 1, size=n_problems)}
    return VERDICTS.frame(
        [
            {
                "arm": arm,
                "problem_id": f"{prefix}{problem:03d}",
                "sample_index": sample,
                "answer_correct": bool(won),
                "process_valid": None,
                "strict": bool(won),
                "reason": f"mark of {prefix}{problem}",
                "read_by": "box",
                "outcome": "right" if won else "wrong",
            }
            for arm in rates
            for problem in range(n_problems)
            for sample, won in enumerate(generator.random(n) < rates[arm][problem])
        ]
    )


def evidence(seed: int, n_problems: int = 12, n: int = 4) -> Evidence:
    """Random evidence; only every other problem has a process, and the old task has problems of its own."""
    generator = np.random.default_rng(seed)
    found = verdicts("p", n_problems, n, generator)
    keys = found.select("problem_id", "sample_index", writer="arm").unique(maintain_order=True)
    marks = {problem: float(generator.exponential(5)) for problem in sorted(set(keys["problem_id"]))}
    scores = [
        {**row, "n_tokens": 2, "logp_base": -marks[row["problem_id"]] - 1,
         "logp_tuned": -float(generator.exponential(1)), "token_kl": float(generator.exponential(1))}
        for row in keys.iter_rows(named=True)
    ]  # fmt: skip
    ranks = [
        {**row, "position": position, "rank": int(generator.integers(1, 9)), "entropy": marks[row["problem_id"]]}
        for row in keys.iter_rows(named=True)
        for position in range(2)
    ]
    process = [
        {"reader": reader, "problem_id": problem, "sample_index": 0, "step": step, "n_steps": 1,
         "logp_answer": -marks[problem], "leaked": step == 1, "early_correct": False,
         "followed": None if step == 0 else True}
        for reader in ("base", "tuned") for problem in list(marks)[::2] for step in range(2)
    ]  # fmt: skip
    return evidence_of(
        found,
        scores=SCORES.frame(scores),
        ranks=RANKS.frame(ranks),
        process=PROCESS.frame(process),
        old_verdicts=verdicts("old", 5, 3, generator),
    )


def ids(table: pl.DataFrame) -> list[str]:
    return sorted(set(table["problem_id"]))


def original(mark: object, data: Evidence, name: str) -> str:
    """The problem whose rows carry `mark`."""
    (problem,) = set(getattr(data, name).filter(pl.col(MARKS[name]) == mark)["problem_id"])
    return problem


def draws(again: Evidence, data: Evidence, name: str) -> dict[str, str]:
    """New name -> the problem that it copies, as a table tells."""
    table, mark = getattr(again, name), MARKS[name]
    return {
        copy: original(marks[0], data, name)
        for (copy,), mine in table.partition_by("problem_id", as_dict=True).items()
        if len(marks := list(set(mine[mark]))) == 1
    }


@settings(max_examples=20)
@given(SEEDS)
def test_a_replica_has_as_many_problems_and_each_is_a_whole_copy_of_one(seed):
    data = evidence(seed)
    again = replica(data, np.random.default_rng(seed))
    assert len(ids(again.verdicts)) == 12
    assert len(ids(again.old_verdicts)) == 5
    for name in TABLES:
        table, came = getattr(again, name), getattr(data, name)
        assert table.schema == came.schema
        drawn = draws(again, data, name)
        assert set(drawn) == set(ids(table))
        for copy, problem in drawn.items():
            mine = table.filter(pl.col("problem_id") == copy).drop("problem_id")
            theirs = came.filter(pl.col("problem_id") == problem).drop("problem_id")
            assert mine.equals(theirs)


@settings(max_examples=20)
@given(SEEDS)
def test_all_tables_of_a_replica_are_about_the_same_draws_and_the_old_task_is_drawn_apart(seed):
    data = evidence(seed)
    again = replica(data, np.random.default_rng(seed))
    drawn = draws(again, data, "verdicts")
    assert draws(again, data, "scores") == draws(again, data, "ranks") == drawn
    with_process = set(data.process["problem_id"])
    assert draws(again, data, "process") == {copy: old for copy, old in drawn.items() if old in with_process}
    old = draws(again, data, "old_verdicts")
    assert list(old) != ids(data.old_verdicts), "copies have names of their own"
    assert set(old.values()) <= set(data.old_verdicts["problem_id"])


def test_old_problems_are_drawn_with_replacement_too():
    data, generator = evidence(0), np.random.default_rng(0)
    drawn = [draws(replica(data, generator), data, "old_verdicts").values() for _ in range(200)]
    counts = Counter(problem for problems in drawn for problem in problems)
    assert sum(counts.values()) == 200 * 5
    assert set(counts) == set(data.old_verdicts["problem_id"])
    assert max(abs(count - 200) for count in counts.values()) < 4 * 200**0.5
    assert any(len(set(problems)) < 5 for problems in drawn)


def test_problems_are_drawn_with_replacement_and_evenly():
    data = evidence(0)
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(ids(data.verdicts), 0)
    for _ in range(200):
        for problem in draws(replica(data, generator), data, "scores").values():
            counts[problem] += 1
    assert sum(counts.values()) == 200 * 12
    assert max(abs(count - 200) for count in counts.values()) < 4 * 200**0.5
    assert len(set(draws(replica(data, generator), data, "scores").values())) < 12


def test_equal_generators_draw_equal_replicas_whatever_the_order_of_rows():
    data = evidence(1)
    shuffled = replace(data, verdicts=data.verdicts.sample(fraction=1.0, shuffle=True, seed=0))
    first, again = (draws(replica(some, np.random.default_rng(4)), some, "verdicts") for some in (data, shuffled))
    assert first == again
    assert first != draws(replica(data, np.random.default_rng(5)), data, "verdicts")


def test_tables_without_rows_stay_without():
    bare = evidence_of(evidence(0).verdicts)
    again = replica(bare, np.random.default_rng(0))
    assert again.verdicts.height == bare.verdicts.height
    assert all(getattr(again, name).is_empty() for name in TABLES[1:])
    assert {field.name for field in fields(again)} == {"arms", *TABLES}
    assert again.arms.equals(bare.arms)


def share(table: pl.DataFrame, quantity: str) -> dict:
    return table.row(by_predicate=pl.col("quantity") == quantity, named=True)


@pytest.mark.parametrize("seed", range(4))
def test_shares_of_a_replica_are_those_of_the_problems_weighted_by_how_often_they_were_drawn(seed):
    data = evidence(seed, n_problems=60)
    again = replica(data, np.random.default_rng(seed))
    drawn = list(draws(again, data, "scores").values())
    weights = np.array([drawn.count(problem) for problem in ids(data.verdicts)])
    assert weights.sum() == 60
    assert weights.max() > 1
    means = data.verdicts.group_by("arm", "problem_id").agg(pl.col("strict").mean()).sort("problem_id")
    base, tuned = (means.filter(pl.col("arm") == arm)["strict"].to_numpy() for arm in ("base", "tuned"))
    gain = weights * (tuned - base)

    solved = share(coverage(again, FAST), "gain on problems the base solves when sampled")
    assert solved["value"] == pytest.approx(gain[base > 0].sum() / gain.sum())
    parts = split(data)
    filtering = share(kl_split(again, FAST), "filtering share of the KL")
    assert filtering["value"] == pytest.approx((weights @ parts.filtering) / (weights @ parts.total))
    often = dict(zip(ids(data.verdicts), weights.tolist(), strict=True))
    read = data.ranks.filter(pl.col("writer") == "tuned").with_columns(often=pl.col("problem_id").replace_strict(often))
    often_read, is_hit = read["often"].to_numpy(), read["rank"].is_between(2, 5).to_numpy()
    reranked = share(token_ranks(again, FAST), "reranked tokens, in the tuned model's texts")
    assert reranked["value"] == pytest.approx(often_read[is_hit].sum() / often_read.sum())
