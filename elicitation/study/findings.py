"""Findings: traces and verdicts of all arms -> the tables of the report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf, nan
from typing import Literal

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.report.study.tables import COVER, EXAMPLES, FAMILIES, GUESS, LADDER, PASS_AT_K, PUBLISHED, Family
from lab.metrics.accuracy import accuracy, accuracy_by_family, problem_accuracies
from lab.metrics.bootstrap import Interval, difference_interval, ratio_intervals
from lab.metrics.guess_floor import guess_floor
from lab.metrics.pass_at_k import cover_curve, pass_at_k_curve
from lab.metrics.share import Share, elicited_share, gap_recovered
from lab.sampling.trace import ROUTES
from lab.scoring.evidence import ARMS, ArmKey, Role, arm_row
from lab.tasks.problem import Problem
from lab.tasks.source import Task

TUNED = ROUTES.index("tuned")
TAUS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
MEASURES = {"strict": "strict", "answer": "answer_correct"}
"""Measure -> column of a `VERDICTS` table."""

Weights = Int[np.ndarray, "boot _problem"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answered:
    """An arm with all that came of it."""

    name: str
    label: str
    key: ArmKey
    control_of: str | None
    """For a control, the name of its rung."""
    family: Family
    traces: pl.DataFrame
    """`TRACES`, ordered by problem and sample."""
    verdicts: pl.DataFrame
    """`VERDICTS`, in the same order."""
    steered_share: float
    bits: Float[np.ndarray, " problem"]
    """Bits that a completion of each problem took from the tuned model, the mean over samples; infinite for itself."""
    cost: float
    """Tokens generated for an answer, as a multiple of the base's single sample."""

    @property
    def kind(self) -> Literal["end", "rung", "control"]:
        """Whether it is one of the two models, one kind of help, or the placebo of one."""
        if self.family == "end":
            return "end"
        return "rung" if self.key.control is None else "control"

    @property
    def row(self) -> dict[str, object]:
        """Its row of `ARMS`."""
        return arm_row(self.name, self.key, label=self.label, control_of=self.control_of)

    @property
    def named(self) -> dict[str, object]:
        """The columns that name it in a table of the report."""
        return {"arm": self.name, "label": self.label}

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


def numbers(found: Interval | Share, value: str = "value", low: str = "low", high: str = "high") -> dict[str, float]:
    """Columns of a value and its interval."""
    return {value: found.value, low: found.low, high: found.high}


def spread(name: str, found: Interval | Share) -> dict[str, float]:
    """The same, all named for the value."""
    return numbers(found, name, f"{name}_low", f"{name}_high")


def arm_table(arms: Sequence[Answered]) -> pl.DataFrame:
    """`ARMS`: what each arm is called, and what it is there for."""
    return ARMS.frame([arm.row for arm in arms])


def ladder_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`LADDER`: every arm under both measures; the first arm is the base, the last the tuned model."""
    base, tuned = arms[0], arms[-1]
    rows: list[dict[str, object]] = []
    for measure, (order, arm) in product(MEASURES, enumerate(arms)):
        rates, of_base = arm.rates(measure), base.rates(measure)
        share = elicited_share(rates, of_base, tuned.rates(measure), weights)
        controls = [other.rates(measure) for other in arms if other.control_of == arm.name]
        best = max(controls, key=np.mean, default=None)
        is_end = arm.kind == "end"
        rows.append(
            arm.row
            | {"kind": arm.kind, "family": arm.family, "order": order, "measure": measure}
            | numbers(accuracy(arm.accepted(measure), weights), "accuracy")
            | spread("gain", ZERO if arm is base else difference_interval(rates, of_base, weights))
            | spread("share", NOTHING if is_end else share)
            | spread("over_control", NOTHING if best is None else difference_interval(rates, best, weights))
            | numbers(
                crossed(arm.n_samples * arm.bits, arm.n_tokens, weights), "bits_per_token", "bits_low", "bits_high"
            )
            | spread("bits_per_problem", crossed(arm.bits, np.ones_like(arm.n_tokens), weights))
            | {
                "refusal": None if is_end else share.refusal,
                "steered_share": arm.steered_share,
                "cost": arm.cost,
                "truncated": float((arm.traces["stop"] == "length").mean()),  # pyright: ignore[reportArgumentType]
                "n_problems": len(rates),
                "n_samples": arm.n_samples,
            }
        )
    return LADDER.frame(rows)


def published_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`PUBLISHED`: every arm of a published method between the two models decoded greedily; without those no row."""
    ends = {arm.key.role: arm.rates("strict") for arm in arms if arm.key.decoding == "greedy" and arm.kind == "rung"}
    mine = [arm for arm in arms if arm.family == "published"]
    if not mine or not {Role.BASE, Role.TUNED} <= ends.keys():
        return PUBLISHED.frame([])
    base, tuned = ends[Role.BASE], ends[Role.TUNED]
    rows: list[dict[str, object]] = []
    for arm in mine:
        rates, switched = arm.rates("strict"), arm.label.split(", ", maxsplit=1)[1]
        share = elicited_share(rates, base, tuned, weights)
        rows.append(
            arm.named
            | spread("share", share)
            | numbers(accuracy(arm.accepted("strict"), weights), "accuracy")
            | {
                "published": arm.key.role.partition("-")[0],
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
            arm.named | {"measure": measure, "k": point.k} | numbers(point.interval)
            for measure, arm in product(MEASURES, arms)
            for point in pass_at_k_curve(arm.accepted(measure), ks, weights)
        ]
    )


def cover_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`COVER` of the same arms."""
    return COVER.frame(
        [
            arm.named | {"measure": measure, "tau": point.tau} | numbers(point.interval)
            for measure, arm in product(MEASURES, arms)
            for point in cover_curve(arm.rates(measure), TAUS, weights)
        ]
    )


def family_table(arms: Sequence[Answered], problems: Sequence[Problem], weights: Weights) -> pl.DataFrame:
    """`FAMILIES` of the given arms."""
    families = [problem.family for problem in problems]
    return FAMILIES.frame(
        [
            arm.named | {"measure": measure, "family": family, "n_problems": families.count(family)} | numbers(interval)
            for measure, arm in product(MEASURES, arms)
            for family, interval in accuracy_by_family(arm.accepted(measure), families, weights).items()
        ]
    )


def guess_table(arms: Sequence[Answered], task: Task, weights: Weights) -> pl.DataFrame:
    """`GUESS`: what each arm's answers would score if they were shuffled among the problems."""
    golds = [problem.answer for problem in task.problems]
    rows: list[dict[str, object]] = []
    for arm in arms:
        answers = [task.read_answer(text) for text in arm.traces["text"].to_list()]
        of_problems = [answers[start : start + arm.n_samples] for start in range(0, len(answers), arm.n_samples)]
        rows.append(arm.named | numbers(guess_floor(of_problems, golds, weights, same=task.same_answer)))
    return GUESS.frame(rows)


def example_table(
    arms: Sequence[Answered], problems: Sequence[Problem], piece: Callable[[int], str], n_examples: int
) -> pl.DataFrame:
    """`EXAMPLES`: the first sample of the first problems, by every arm, so that nothing is picked by its outcome.

    `piece` gives the text of a token id.
    """
    rows: list[dict[str, object]] = []
    for problem, arm in product(problems[:n_examples], arms):
        trace, verdict = (
            table.row(by_predicate=(pl.col("problem_id") == problem.id) & (pl.col("sample_index") == 0), named=True)
            for table in (arm.traces, arm.verdicts)
        )
        rows.append(
            arm.named
            | {"problem_id": problem.id, "prompt": problem.prompt, "gold": problem.answer}
            | {name: trace[name] for name in ("text", "routes", "logprobs")}
            | {name: verdict[name] for name in ("answer_correct", "process_valid", "reason")}
            | {"tokens": [piece(token) for token in trace["tokens"]]}
            | ({"routes": [TUNED] * len(trace["routes"])} if arm.key == ArmKey(Role.TUNED) else {})
        )
    return EXAMPLES.frame(rows)
