"""Findings: verdicts of all arms -> the tables of the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, nan
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.report.study.tables import COVER, EXAMPLES, FAMILIES, GUESS, LADDER, PASS_AT_K, Family
from lab.metrics.accuracy import accuracy, accuracy_by_family, cover_curve, pass_at_k_curve, problem_accuracies
from lab.metrics.bootstrap import difference_interval, ratio_intervals
from lab.metrics.guess_floor import guess_floor
from lab.metrics.share import elicited_share
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


class Crossed(NamedTuple):
    """A mean of what crossed from the tuned model, in bits, with its 95 % interval over problems."""

    value: float
    low: float
    high: float


def crossed(
    bits: Float[np.ndarray, " problem"], sizes: Int[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]
) -> Crossed:
    """All `bits` over all `sizes`, a ratio of means over problems.

    What never asks has exactly 0 bits and the tuned model infinitely many, both by construction, so the interval is
    that point. A ratio that is alike on every problem has no interval (NaN).
    """
    if np.isinf(bits).any() or not bits.any():
        exact = inf if bits.any() else 0.0
        return Crossed(exact, exact, exact)
    found = ratio_intervals(bits[:, None], sizes, weights)
    return Crossed(float(found.value[0]), float(found.low[0]), float(found.high[0]))


def arm_table(arms: Sequence[Answered]) -> pl.DataFrame:
    """`ARMS`: what each arm is called, and what it is there for."""
    return ARMS.frame([arm_row(arm.name, arm.key, label=arm.label, control_of=arm.control_of) for arm in arms])


def ladder_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`LADDER`: every arm under both measures; the first arm is the base, the last the tuned model."""
    base, tuned = arms[0], arms[-1]
    rows: list[dict[str, object]] = []
    per_token = [crossed(arm.n_samples * arm.bits, arm.n_tokens, weights) for arm in arms]
    per_problem = [crossed(arm.bits, np.ones_like(arm.n_tokens), weights) for arm in arms]
    for measure in MEASURES:
        of_base, of_tuned = base.rates(measure), tuned.rates(measure)
        for order, arm in enumerate(arms):
            rates = arm.rates(measure)
            level = accuracy(arm.accepted(measure), weights)
            gain = difference_interval(rates, of_base, weights)
            share = elicited_share(rates, of_base, of_tuned, weights)
            is_base, is_end = arm is base, arm.kind == "end"
            controls = [other.rates(measure) for other in arms if other.control_of == arm.name]
            best = max(controls, key=np.mean, default=None)
            over = None if best is None else difference_interval(rates, best, weights)
            rows.append(
                {
                    "arm": arm.name,
                    "label": arm.label,
                    "kind": arm.kind,
                    "role": arm.key.role,
                    "decoding": arm.key.decoding,
                    "control": arm.key.control,
                    "control_of": arm.control_of,
                    "family": arm.family,
                    "order": order,
                    "measure": measure,
                    "accuracy": level.value,
                    "low": level.low,
                    "high": level.high,
                    "gain": 0.0 if is_base else gain.value,
                    "gain_low": 0.0 if is_base else gain.low,
                    "gain_high": 0.0 if is_base else gain.high,
                    "share": nan if is_end else share.value,
                    "share_low": nan if is_end else share.low,
                    "share_high": nan if is_end else share.high,
                    "over_control": nan if over is None else over.value,
                    "over_control_low": nan if over is None else over.low,
                    "over_control_high": nan if over is None else over.high,
                    "refusal": None if is_end else share.refusal,
                    "steered_share": arm.steered_share,
                    "bits_per_token": per_token[order].value,
                    "bits_low": per_token[order].low,
                    "bits_high": per_token[order].high,
                    "bits_per_problem": per_problem[order].value,
                    "bits_per_problem_low": per_problem[order].low,
                    "bits_per_problem_high": per_problem[order].high,
                    "cost": arm.cost,
                    "truncated": float((arm.traces["stop"] == "length").mean()),  # pyright: ignore[reportArgumentType]
                    "n_problems": len(rates),
                    "n_samples": arm.n_samples,
                }
            )
    return LADDER.frame(rows)


def pass_at_k_table(arms: Sequence[Answered], ks: Sequence[int], weights: Weights) -> pl.DataFrame:
    """`PASS_AT_K` of the arms that were sampled often enough."""
    return PASS_AT_K.frame(
        [
            {
                "arm": arm.name,
                "label": arm.label,
                "measure": measure,
                "k": point.k,
                "value": point.interval.value,
                "low": point.interval.low,
                "high": point.interval.high,
            }
            for measure in MEASURES
            for arm in arms
            for point in pass_at_k_curve(arm.accepted(measure), ks, weights)
        ]
    )


def cover_table(arms: Sequence[Answered], weights: Weights) -> pl.DataFrame:
    """`COVER` of the same arms."""
    return COVER.frame(
        [
            {
                "arm": arm.name,
                "label": arm.label,
                "measure": measure,
                "tau": point.tau,
                "value": point.interval.value,
                "low": point.interval.low,
                "high": point.interval.high,
            }
            for measure in MEASURES
            for arm in arms
            for point in cover_curve(arm.rates(measure), TAUS, weights)
        ]
    )


def family_table(arms: Sequence[Answered], problems: Sequence[Problem], weights: Weights) -> pl.DataFrame:
    """`FAMILIES` of the given arms."""
    families = [problem.family for problem in problems]
    return FAMILIES.frame(
        [
            {
                "arm": arm.name,
                "label": arm.label,
                "measure": measure,
                "family": family,
                "value": interval.value,
                "low": interval.low,
                "high": interval.high,
                "n_problems": families.count(family),
            }
            for measure in MEASURES
            for arm in arms
            for family, interval in accuracy_by_family(arm.accepted(measure), families, weights).items()
        ]
    )


def guess_table(arms: Sequence[Answered], task: Task, weights: Weights) -> pl.DataFrame:
    """`GUESS`: what each arm's answers would score if they were shuffled among the problems."""
    golds = [problem.answer for problem in task.problems]
    rows: list[dict[str, object]] = []
    for arm in arms:
        answers = [task.read_answer(text) for text in arm.traces["text"].to_list()]
        n = arm.n_samples
        floor = guess_floor(
            [answers[start : start + n] for start in range(0, len(answers), n)], golds, weights, same=task.same_answer
        )
        rows.append({"arm": arm.name, "label": arm.label, "value": floor.value, "low": floor.low, "high": floor.high})
    return GUESS.frame(rows)


def example_table(
    arms: Sequence[Answered], problems: Sequence[Problem], piece: Callable[[int], str], n_examples: int
) -> pl.DataFrame:
    """`EXAMPLES`: the first sample of the first problems, by every arm, so that nothing is picked by its outcome.

    `piece` gives the text of a token id.
    """
    rows: list[dict[str, object]] = []
    for problem in problems[:n_examples]:
        for arm in arms:
            mine = (pl.col("problem_id") == problem.id) & (pl.col("sample_index") == 0)
            trace = arm.traces.filter(mine).row(0, named=True)
            verdict = arm.verdicts.filter(mine).row(0, named=True)
            rows.append(
                {
                    "arm": arm.name,
                    "label": arm.label,
                    "problem_id": problem.id,
                    "prompt": problem.prompt,
                    "gold": problem.answer,
                    "text": trace["text"],
                    "tokens": [piece(token) for token in trace["tokens"]],
                    "routes": [TUNED] * len(trace["routes"]) if arm.key == ArmKey(Role.TUNED) else trace["routes"],
                    "logprobs": trace["logprobs"],
                    "answer_correct": verdict["answer_correct"],
                    "process_valid": verdict["process_valid"],
                    "reason": verdict["reason"],
                }
            )
    return EXAMPLES.frame(rows)
