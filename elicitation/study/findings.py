"""Findings: traces and verdicts of all arms -> the tables of the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, nan

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.pages.study.tables import COVER, EXAMPLES, FAMILIES, GUESS, LADDER, PASS_AT_K, PUBLISHED, Family
from elicitation.study.arms import Arm
from lab.metrics.accuracy import (
    Share,
    accuracy,
    accuracy_by_family,
    cover_curve,
    elicited_share,
    gap_recovered,
    guess_floor,
    pass_at_k_curve,
    problem_accuracies,
)
from lab.metrics.bootstrap import Interval, difference_interval, interval_columns, ratio_intervals
from lab.sampling.trace import ROUTES
from lab.scoring.evidence import ARMS, ArmKey, Role
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from steering.edit import Edited

TUNED = ROUTES.index("tuned")
TAUS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
MEASURES = {"strict": "strict", "answer": "answer_correct"}
"""Measure -> column of a `VERDICTS` table."""

Weights = Int[np.ndarray, "boot _problem"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answered:
    """An arm with all that came of it."""

    arm: Arm
    family: Family
    """Of its rung, where it is a control."""
    traces: pl.DataFrame
    """`TRACES`, ordered by problem and sample."""
    verdicts: pl.DataFrame
    """`VERDICTS`, in the same order."""
    bits: Float[np.ndarray, " problem"]
    """Bits that a completion of each problem took from the tuned model, the mean over samples; infinite for itself."""
    cost: float
    """Tokens generated for an answer, as a multiple of the base's single sample."""

    @property
    def steered_share(self) -> float:
        """Share of tokens at which it acts; at how many an edit of the whole text does anything is not measured."""
        return nan if isinstance(self.arm.method, Edited) else routed_share(self.traces)

    @property
    def n_samples(self) -> int:
        """Samples of each problem."""
        return self.verdicts.height // self.verdicts["problem_id"].n_unique()

    @property
    def n_tokens(self) -> Int[np.ndarray, " problem"]:
        """Tokens of all completions of each problem."""
        lengths = self.traces["tokens"].list.len().to_numpy().astype(np.int64)
        return lengths.reshape(self.verdicts["problem_id"].n_unique(), -1).sum(axis=1)

    def accepted(self, measure: str) -> Bool[np.ndarray, "problem sample"]:
        """Which completions count under `measure`."""
        return self.verdicts[MEASURES[measure]].to_numpy().reshape(-1, self.n_samples)

    def rates(self, measure: str) -> Float[np.ndarray, " problem"]:
        """Accuracy on each problem."""
        return problem_accuracies(self.accepted(measure))


def routed_share(traces: pl.DataFrame) -> float:
    """Share of all emitted tokens that were routed away from the base model."""
    routes = traces["routes"].explode()
    return float((routes > 0).mean())  # pyright: ignore[reportArgumentType]


def crossed(
    bits: Float[np.ndarray, " problem"], sizes: Int[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]
) -> Interval:
    """All `bits` from the tuned model over all `sizes`, a ratio of means over problems, with its 95 % interval.

    What never asks has exactly 0 bits and the tuned model infinitely many, both by construction, so the interval is
    that point. A ratio that is alike on every problem has no interval (NaN).
    """
    if np.isinf(bits).any() or not bits.any():
        exact = inf if bits.any() else 0.0
        return Interval(value=exact, low=exact, high=exact, stderr=0.0)
    found = ratio_intervals(bits[:, None], sizes, weights)
    return Interval(value=float(found.value[0]), low=float(found.low[0]), high=float(found.high[0]), stderr=nan)


NOTHING = Interval(value=nan, low=nan, high=nan, stderr=nan)
ZERO = Interval(value=0.0, low=0.0, high=0.0, stderr=0.0)


def spread(name: str, found: Interval | Share) -> dict[str, object]:
    """Columns of an interval, all named for the value."""
    return interval_columns(found, name, f"{name}_")


def arm_table(arms: Sequence[Answered]) -> pl.DataFrame:
    """`ARMS`: what each arm is called, and what it is there for."""
    return ARMS.frame([one.arm.row for one in arms])


def ladder_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`LADDER`: every arm under both measures; the first arm is the base, the last the tuned model."""
    base, tuned = arms[0], arms[-1]
    rows: list[dict[str, object]] = []
    for measure, (order, one) in product(MEASURES, enumerate(arms)):
        arm, rates, of_base = one.arm, one.rates(measure), base.rates(measure)
        share = elicited_share(rates, of_base, tuned.rates(measure), weights)
        controls = [other.rates(measure) for other in arms if other.arm.control_of == arm.name]
        best = max(controls, key=np.mean, default=None)
        is_end = arm.kind == "end"
        per_token = crossed(one.n_samples * one.bits, one.n_tokens, weights)
        rows.append(
            arm.row
            | {"kind": arm.kind, "family": one.family, "order": order, "measure": measure}
            | interval_columns(accuracy(one.accepted(measure), weights), "accuracy")
            | spread("gain", ZERO if one is base else difference_interval(rates, of_base, weights))
            | spread("share", NOTHING if is_end else share)
            | spread("over_control", NOTHING if best is None else difference_interval(rates, best, weights))
            | interval_columns(per_token, "bits_per_token", "bits_")
            | spread("bits_per_problem", crossed(one.bits, np.ones_like(one.n_tokens), weights))
            | {
                "refusal": None if is_end else share.refusal,
                "steered_share": one.steered_share,
                "cost": one.cost,
                "truncated": float((one.traces["stop"] == "length").mean()),  # pyright: ignore[reportArgumentType]
                "n_problems": len(rates),
                "n_samples": one.n_samples,
            }
        )
    return LADDER.frame(rows)


def published_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`PUBLISHED`: every arm of a published method between the two models decoded greedily; without those no row."""
    ends = {
        one.arm.role: one.rates("strict") for one in arms if one.arm.key.decoding == "greedy" and not one.arm.control
    }
    mine = [one for one in arms if one.family == "published"]
    if not mine or not {Role.BASE, Role.TUNED} <= ends.keys():
        return PUBLISHED.frame([])
    base, tuned = ends[Role.BASE], ends[Role.TUNED]
    rows: list[dict[str, object]] = []
    for one in mine:
        rates, switched = one.rates("strict"), one.arm.label.split(", ", maxsplit=1)[1]
        share = elicited_share(rates, base, tuned, weights)
        rows.append(
            one.arm.named
            | spread("share", share)
            | interval_columns(accuracy(one.accepted("strict"), weights), "accuracy")
            | {
                "published": one.arm.role.partition("-")[0],
                "fault": None if switched == "as published" else switched,
                "theirs": gap_recovered(rates.mean(), base.mean(), tuned.mean()),
                "refusal": share.refusal,
                "gap": float(tuned.mean() - base.mean()),
                "truth": nan,
                "n_problems": len(rates),
            }
        )
    return PUBLISHED.frame(rows)


def pass_at_k_table(arms: Sequence[Answered], ks: Sequence[int], weights: Weights) -> pl.DataFrame:
    """`PASS_AT_K` of the arms that were sampled often enough."""
    return PASS_AT_K.frame(
        [
            one.arm.named | {"measure": measure, "k": k} | interval_columns(interval)
            for measure, one in product(MEASURES, arms)
            for k, interval in pass_at_k_curve(one.accepted(measure), ks, weights).items()
        ]
    )


def cover_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`COVER` of the same arms."""
    return COVER.frame(
        [
            one.arm.named | {"measure": measure, "tau": tau} | interval_columns(interval)
            for measure, one in product(MEASURES, arms)
            for tau, interval in cover_curve(one.rates(measure), TAUS, weights).items()
        ]
    )


def family_table(arms: Sequence[Answered], problems: Sequence[Problem], weights: Weights) -> pl.DataFrame:
    """`FAMILIES` of the given arms."""
    families = [problem.family for problem in problems]
    return FAMILIES.frame(
        [
            one.arm.named
            | {"measure": measure, "family": family, "n_problems": families.count(family)}
            | interval_columns(interval)
            for measure, one in product(MEASURES, arms)
            for family, interval in accuracy_by_family(one.accepted(measure), families, weights).items()
        ]
    )


def guess_table(arms: Sequence[Answered], task: Task, weights: Weights) -> pl.DataFrame:
    """`GUESS`: what each arm's answers would score if they were shuffled among the problems."""
    golds = [problem.answer for problem in task.problems]
    rows: list[dict[str, object]] = []
    for one in arms:
        answers, n = [task.read_answer(text) for text in one.traces["text"].to_list()], one.n_samples
        of_problems = [answers[start : start + n] for start in range(0, len(answers), n)]
        rows.append(one.arm.named | interval_columns(guess_floor(of_problems, golds, weights, same=task.same_answer)))
    return GUESS.frame(rows)


def example_table(
    arms: Sequence[Answered], problems: Sequence[Problem], piece: Callable[[int], str], n_examples: int
) -> pl.DataFrame:
    """`EXAMPLES`: the first sample of the first problems, by every arm, so that nothing is picked by its outcome.

    `piece` gives the text of a token id.
    """
    rows: list[dict[str, object]] = []
    for problem, one in product(problems[:n_examples], arms):
        first = (pl.col("problem_id") == problem.id) & (pl.col("sample_index") == 0)
        trace, verdict = (table.row(by_predicate=first, named=True) for table in (one.traces, one.verdicts))
        # All that the tuned model writes alone is from the tuned model.
        routes = [TUNED] * len(trace["routes"]) if one.arm.key == ArmKey(Role.TUNED) else trace["routes"]
        rows.append(
            one.arm.named
            | {"problem_id": problem.id, "prompt": problem.prompt, "gold": problem.answer}
            | {"tokens": [piece(token) for token in trace["tokens"]], "routes": routes}
            | {name: trace[name] for name in ("text", "logprobs")}
            | {name: verdict[name] for name in ("answer_correct", "process_valid", "reason")}
        )
    return EXAMPLES.frame(rows)
