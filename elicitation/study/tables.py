"""Tables: the traces of all arms -> verdicts and the tables of the report -> the evidence -> all estimates."""

from collections.abc import Sequence
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from elicitation.estimators.estimate import ESTIMATES
from elicitation.estimators.panel import panel
from elicitation.pages.study.tables import SCHEMAS, Family
from elicitation.study.arms import Arm, arm_family
from elicitation.study.context import StudyContext
from elicitation.study.findings import (
    Answered,
    arm_table,
    cover_table,
    example_table,
    family_table,
    guess_table,
    ladder_table,
    pass_at_k_table,
    published_table,
)
from elicitation.study.sampled import old_traces, read_traces, tokens_per_answer
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.provenance import Provenance
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact
from lab.records.tables import read_table, write_table
from lab.sampling.trace import VERDICTS, verdict_table
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES, Evidence, Role
from lab.scoring.scores import process, scores
from steering.edit import Edited
from steering.hybrid.hybrid import Hybrid

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

    def compute(work: Path, made_by: Provenance) -> None:
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
        tables = {
            "ladder": ladder_table(rungs, weights),
            "published_hybrids": published_table(rest, weights),
            "guess": guess_table(own, context.task, weights),
            "pass_at_k": pass_at_k_table(own, study.ks, weights),
            "cover": cover_table(own, weights),
            "families": family_table(own, problems, weights),
            "examples": example_table(rungs, problems, partial(piece, context.base), N_EXAMPLES),
        }
        write_table(work / "verdicts.parquet", pl.concat([one.verdicts for one in arms]), VERDICTS, made_by)
        write_table(work / "arms.parquet", arm_table(arms), ARMS, made_by)
        for schema in SCHEMAS:
            write_table(work / f"{schema.name}.parquet", tables[schema.name], schema, made_by)

    return context.stage("tables", config, parents, compute)


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
    elif not isinstance(arm.method, Edited | None):
        cost = tokens_per_answer(artefact) / base_tokens
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

    def compute(work: Path, made_by: Provenance) -> None:
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
        write_table(work / "scores.parquet", scored, SCORES, made_by)
        write_table(work / "ranks.parquet", pl.concat([read.ranks for read in readings]), RANKS, made_by)
        write_table(work / "process.parquet", steps, PROCESS, made_by)
        write_table(work / "old.parquet", pl.concat([VERDICTS.frame([]), *judged]), VERDICTS, made_by)

    return context.stage("evidence", config, parents, compute)


def read_evidence(evidence: Artefact, tables: Artefact) -> Evidence:
    """The finished stages as one value."""
    return Evidence(
        arms=read_table(tables.path / "arms.parquet", ARMS),
        verdicts=read_table(tables.path / "verdicts.parquet", VERDICTS),
        scores=read_table(evidence.path / "scores.parquet", SCORES),
        ranks=read_table(evidence.path / "ranks.parquet", RANKS),
        process=read_table(evidence.path / "process.parquet", PROCESS),
        old_verdicts=read_table(evidence.path / "old.parquet", VERDICTS),
    )


def estimate_stage(context: StudyContext, evidence: Artefact, tables: Artefact) -> Artefact:
    """`estimates/`: every estimator's answer."""
    parents = {"evidence": evidence.digest, "tables": tables.digest}
    analysis = context.study.analysis

    def compute(work: Path, made_by: Provenance) -> None:
        write_table(work / "estimates.parquet", panel(read_evidence(evidence, tables), analysis), ESTIMATES, made_by)

    return context.stage("estimates", analysis, parents, compute)


def read_estimates(estimates: Artefact) -> pl.DataFrame:
    """The table of a finished stage."""
    return read_table(estimates.path / "estimates.parquet", ESTIMATES)
