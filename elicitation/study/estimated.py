"""Estimate stages: what both models say of each other's traces -> the evidence -> the table of all estimates."""

from pathlib import Path

import polars as pl

from elicitation.estimators.estimate import ESTIMATES
from elicitation.estimators.panel import panel
from elicitation.study.context import StudyContext
from elicitation.study.sampled import old_traces, read_traces
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table, write_table
from lab.sampling.trace import VERDICTS, verdict_table
from lab.scoring.evidence import ARMS, PROCESS, RANKS, SCORES, Evidence, Role
from lab.scoring.process import process
from lab.scoring.scores import scores


def evidence_stage(context: StudyContext, base: Artefact, tuned: Artefact, tables: Artefact) -> Artefact:
    """`evidence/`: all tables that the estimators look at."""
    parents = {"base": base.digest, "tuned": tuned.digest, "tables": tables.digest}
    old: dict[str, Artefact] = {}
    if context.old_task is not None:
        models = {Role.BASE: context.base, Role.TUNED: context.pair.tuned}
        old = {arm: old_traces(context, model, arm, context.old_task) for arm, model in models.items()}
    parents |= {f"old-{arm}": artefact.digest for arm, artefact in old.items()}
    config = {"n_score_samples": context.study.n_score_samples}

    def compute(work: Path) -> None:
        made_by = context.made_by("evidence", config, parents)
        traces = {Role.BASE: read_traces(base), Role.TUNED: read_traces(tuned)}
        by_id = {problem.id: problem for problem in context.task.problems}
        # Probabilities are compared at temperature 1; samples of another distribution would bias what rests on them.
        decoding = context.study.decoding
        plain = decoding.temperature == 1 and decoding.top_p == 1
        first = pl.col("sample_index") < context.study.n_score_samples
        context.watch("reading", 0, 3)
        readings = []
        for writer, table in traces.items():
            readings.append(scores(context.pair, writer, table.filter(first), by_id))
            context.watch("reading", 1, 3)
        steps = process(
            {Role.BASE: context.base, Role.TUNED: context.pair.tuned},
            context.task,
            traces[Role.TUNED],
            context.study.decoding,
            batch_size=context.study.batch_size,
        )
        context.watch("reading", 1, 3)
        scored = pl.concat([read.scores for read in readings]) if plain else SCORES.frame([])
        write_table(work / "scores.parquet", scored, SCORES, made_by)
        write_table(work / "ranks.parquet", pl.concat([read.ranks for read in readings]), RANKS, made_by)
        write_table(work / "process.parquet", steps, PROCESS, made_by)
        write_table(work / "old.parquet", old_verdicts(context, old), VERDICTS, made_by)

    return memoised(context.out, "evidence", config, parents, compute)


def old_verdicts(context: StudyContext, old: dict[str, Artefact]) -> pl.DataFrame:
    """`VERDICTS` on the old task; no rows where none was given."""
    if context.old_task is None:
        return VERDICTS.frame([])
    task = context.old_task
    return pl.concat(
        [
            verdict_table(read_traces(artefact), task.problems, task.verify).with_columns(pl.lit(arm).alias("arm"))
            for arm, artefact in old.items()
        ]
    )


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

    def compute(work: Path) -> None:
        table = panel(read_evidence(evidence, tables), analysis)
        write_table(work / "estimates.parquet", table, ESTIMATES, context.made_by("estimates", analysis, parents))

    return memoised(context.out, "estimates", analysis, parents, compute)


def read_estimates(estimates: Artefact) -> pl.DataFrame:
    """The table of a finished stage."""
    return read_table(estimates.path / "estimates.parquet", ESTIMATES)
