"""Tables: the traces of all arms -> verdicts and the tables of the report -> the evidence -> all estimates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from math import inf, nan
from typing import get_args

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.estimators.estimate import ESTIMATES, MEASURES, UNKNOWN
from elicitation.estimators.panel import panel
from elicitation.pages.study.tables import (
    COVER,
    EXAMPLES,
    FAMILIES,
    GUESS,
    LADDER,
    PASS_AT_K,
    PUBLISHED,
    SCHEMAS,
    Family,
)
from elicitation.study.arms import Arm, AskedAs, arm_family
from elicitation.study.config import StudyContext, Tables
from elicitation.study.outcomes import outcome_table
from elicitation.study.sampled import COSTS, old_traces, read_traces
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
from lab.metrics.bootstrap import Interval, difference_interval, interval_columns, ratio_intervals, resamples
from lab.models.load import Model
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact
from lab.records.tables import Schema, read_table
from lab.sampling.trace import ROUTES, VERDICTS, verdict_table
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES, ArmKey, Evidence, Role
from lab.scoring.scores import process, scores
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from steering.edit import Edited
from steering.hybrid.hybrid import Hybrid

TUNED = ROUTES.index("tuned")
TAUS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.0)
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


ZERO = Interval(value=0.0, low=0.0, high=0.0, stderr=0.0)


def spread(name: str, found: Interval | Share) -> dict[str, object]:
    """Columns of an interval, all named for the value."""
    return interval_columns(found, name, f"{name}_")


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
            | spread("share", UNKNOWN if is_end else share)
            | spread("over_control", UNKNOWN if best is None else difference_interval(rates, best, weights))
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
    rates_of = {one.arm.key: one.rates("strict") for one in arms}
    base, tuned = (rates_of.get(ArmKey(role, "greedy")) for role in (Role.BASE, Role.TUNED))
    if base is None or tuned is None:
        return PUBLISHED.frame([])
    rows: list[dict[str, object]] = []
    for one in (one for one in arms if one.family == "published"):
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


def curve_tables(
    arms: Sequence[Answered], problems: Sequence[Problem], ks: Sequence[int], weights: Weights
) -> dict[str, pl.DataFrame]:
    """`PASS_AT_K`, `COVER` and `FAMILIES` of the arms, under both measures."""
    families = [problem.family for problem in problems]
    rows: dict[Schema, list[dict[str, object]]] = {PASS_AT_K: [], COVER: [], FAMILIES: []}
    for measure, one in product(MEASURES, arms):
        accepted, common = one.accepted(measure), one.arm.named | {"measure": measure}
        for k, found in pass_at_k_curve(accepted, ks, weights).items():
            rows[PASS_AT_K].append(common | {"k": k} | interval_columns(found))
        for tau, found in cover_curve(one.rates(measure), TAUS, weights).items():
            rows[COVER].append(common | {"tau": tau} | interval_columns(found))
        for family, found in accuracy_by_family(accepted, families, weights).items():
            counted = {"family": family, "n_problems": families.count(family)}
            rows[FAMILIES].append(common | counted | interval_columns(found))
    return {schema.name: schema.frame(of) for schema, of in rows.items()}


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


N_EXAMPLES = 3
"""Problems whose traces the report shows."""


def problem_bits(traces: pl.DataFrame, hybrid: Hybrid) -> pl.DataFrame:
    """`bits` that each completion of an arm took, one row for each (`problem_id`, `sample_index`) of its `TRACES`.

    The sum over the completion's tokens of three lengths. Gate: -log2 of the arm's measured rate of what the gate did
    at the token, where the router asks the tuned model. Category: -log2 of the measured frequency of the token's
    category among routed tokens, where the tuned model's stream was read for it. Content: `content_bits` as recorded.
    A hybrid that never asks the tuned model costs exactly 0; takeover of every token costs the cross-entropy of the
    written tokens under the base; an arm's gates cost the binary entropy of its rate for each token on average
    (Shannon 1948: ideal code lengths under the measured rates, which themselves are not paid for).
    """
    tokens = traces.select(
        "problem_id", "sample_index", "content_bits", "categories", routed=pl.col("routes").list.eval(pl.element() > 0)
    ).explode("content_bits", "categories", "routed")
    bits = pl.col("content_bits").cast(pl.Float64)
    if hybrid.router.reads.asks_tuned:
        bits = bits + code_length("routed")
    if hybrid.intervention.categories_of == "tuned":
        bits = bits + pl.when("routed").then(code_length("routed", "categories") - code_length("routed")).otherwise(0.0)
    keys = ("problem_id", "sample_index")
    return tokens.with_columns(bits=bits).group_by(*keys, maintain_order=True).agg(pl.col("bits").sum())


def code_length(*columns: str) -> pl.Expr:
    """-log2 of the share of all rows that have the same values in `columns`."""
    return (pl.len() / pl.len().over(*columns)).log(2)


def table_stage(
    context: StudyContext, alone: Sequence[tuple[Arm, Artefact]], between: Sequence[tuple[Arm, Artefact]]
) -> Artefact:
    """`tables/`: the arms, their verdicts, and what the report shows of them.

    `alone` are models by themselves: the base, the tuned model, and others; `between` are rungs and controls.
    """
    parents = {arm.name: artefact.digest for arm, artefact in (*alone, *between)}
    study, problems = context.study, context.task.problems
    config = {"ks": study.ks, "n_boot": study.n_boot, "seed": study.seed}

    def compute() -> Tables:
        lengths = read_traces(alone[0][1])["tokens"].list.len()
        base_tokens = int(lengths.sum()) / len(lengths)
        families: dict[str, Family] = {arm.name: arm_family(arm) for arm, _ in (*alone, *between)}
        # In the order of the kinds of help, each control behind its rung.
        ordered = sorted(between, key=lambda each: get_args(Family).index(families[each[0].control_of or each[0].name]))
        arms = [
            answered(context, arm, artefact, families[arm.control_of or arm.name], base_tokens)
            for arm, artefact in (*alone, *ordered)
        ]
        own, rest = arms[: len(alone)], arms[len(alone) :]
        rungs = [own[0], *rest, own[1]]
        weights = resamples(len(problems), study.n_boot, numpy_generator(study.seed, "bootstrap"))
        found = curve_tables(own, problems, study.ks, weights) | {
            "ladder": ladder_table(rungs, weights),
            "outcomes": outcome_table(
                [(one.arm, one.traces, one.verdicts) for one in (own[0], *rest, *own[1:])], problems, context.task.judge
            ),
            "published_hybrids": published_table(rest, weights),
            "guess": guess_table(own, context.task, weights),
            "examples": example_table(rungs, problems, partial(piece, context.base), N_EXAMPLES),
        }
        found["verdicts"] = pl.concat([one.verdicts for one in arms])
        found["arms"] = ARMS.frame([one.arm.row for one in arms])
        return {schema.name: (schema, found[schema.name]) for schema in (*SCHEMAS, VERDICTS, ARMS)}

    return context.tables("tables", config, parents, compute)


def piece(model: Model, token: int) -> str:
    """The text of one token."""
    return str(model.tokenizer.decode([token]))


def answered(context: StudyContext, arm: Arm, artefact: Artefact, family: Family, base_tokens: float = nan) -> Answered:
    """An arm with its verdicts, what it took from the tuned model, and what it cost.

    `base_tokens` are those of the base model's single answer, mean over problems; only methods that write several
    texts an answer need them.
    """
    traces, cost = read_traces(artefact), 1.0
    bits = np.full(len(context.task.problems), inf if family == "end" and arm.role != Role.BASE else 0.0)
    if isinstance(arm.method, Hybrid):
        of_problems = problem_bits(traces, arm.method).group_by("problem_id", maintain_order=True)
        bits = of_problems.agg(pl.col("bits").mean())["bits"].to_numpy()
    elif not isinstance(arm.method, Edited | AskedAs | None):
        costs = read_table(artefact.path / "costs.parquet", COSTS)
        cost = int(costs["n_tokens"].sum()) / int(costs["n_answers"].sum()) / base_tokens
    verdicts = verdict_table(traces, context.task.problems, context.task.verify)
    return Answered(arm=arm, family=family, traces=traces, verdicts=verdicts, bits=bits, cost=cost)


def evidence_stage(context: StudyContext, base: Artefact, tuned: Artefact, tables: Artefact) -> Artefact:
    """`evidence/`: what both models say of each other's traces, and what they do on the old task."""
    models: dict[str, Model] = {Role.BASE: context.base, Role.TUNED: context.pair.tuned}
    stages: dict[str, Artefact] = {Role.BASE: base, Role.TUNED: tuned}
    task = context.old_task
    old = {} if task is None else {role: old_traces(context, model, role, task) for role, model in models.items()}
    parents = {role: stage.digest for role, stage in stages.items()} | {"tables": tables.digest}
    parents |= {f"old-{role}": stage.digest for role, stage in old.items()}
    config = {"n_score_samples": context.study.n_score_samples}

    def compute() -> Tables:
        by_id = {problem.id: problem for problem in context.task.problems}
        # Probabilities are compared at temperature 1; samples of another distribution would bias what rests on them.
        decoding = context.study.decoding
        plain = decoding.temperature == 1 and decoding.top_p == 1
        first = pl.col("sample_index") < context.study.n_score_samples
        context.watch("reading", 0, 3)
        readings = []
        for writer, stage in stages.items():
            readings.append(scores(context.pair, writer, read_traces(stage).filter(first), by_id))
            context.watch("reading", 1, 3)
        batch_size = context.study.batch_size
        steps = process(models, context.task, read_traces(tuned), decoding, batch_size=batch_size)
        context.watch("reading", 1, 3)
        scored = pl.concat([read.scores for read in readings]) if plain else SCORES.frame([])
        judged = [
            verdict_table(read_traces(stage), task.problems, task.verify).with_columns(arm=pl.lit(role))
            for role, stage in old.items()
            if task is not None
        ]
        return {
            "scores": (SCORES, scored),
            "ranks": (RANKS, pl.concat([read.ranks for read in readings])),
            "process": (PROCESS, steps),
            "old": (VERDICTS, pl.concat([VERDICTS.frame([]), *judged])),
        }

    return context.tables("evidence", config, parents, compute)


def read_evidence(evidence: Artefact, tables: Artefact) -> Evidence:
    """The finished stages as one value."""
    schemas = {ARMS: tables, VERDICTS: tables, SCORES: evidence, RANKS: evidence, PROCESS: evidence}
    found = {each.name: read_table(stage.path / f"{each.name}.parquet", each) for each, stage in schemas.items()}
    return Evidence(**found, old_verdicts=read_table(evidence.path / "old.parquet", VERDICTS))


def estimate_stage(context: StudyContext, evidence: Artefact, tables: Artefact) -> Artefact:
    """`estimates/`: every estimator's answer."""
    parents = {"evidence": evidence.digest, "tables": tables.digest}
    analysis = context.study.analysis

    def compute() -> Tables:
        return {"estimates": (ESTIMATES, panel(read_evidence(evidence, tables), analysis))}

    return context.tables("estimates", analysis, parents, compute)


def read_estimates(estimates: Artefact) -> pl.DataFrame:
    """The table of a finished stage."""
    return read_table(estimates.path / "estimates.parquet", ESTIMATES)
