"""Published stage: the tuned model's fitting traces -> two published methods, their arms, what both formulas say."""

from collections.abc import Sequence
from math import nan
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Int

from elicitation.report.study.tables import PUBLISHED
from elicitation.study.arms import Arm
from elicitation.study.context import StudyContext
from elicitation.study.findings import Answered
from elicitation.study.sampled import read_traces
from elicitation.study.vectors import Fitting
from lab.metrics.accuracy import accuracy
from lab.metrics.share import elicited_share, gap_recovered
from lab.records.errors import EstimateError, VectorError
from lab.records.stage import Artefact, memoised
from lab.scoring.evidence import Role
from probes.taxonomy.segments import finest_rule
from steering.published_hybrids.arms import published_arms
from steering.published_hybrids.fit_published import fit_published
from steering.published_hybrids.published_hybrids import load_published, save_published
from steering.published_hybrids.recipe import PublishedSettings


def published_stage(context: StudyContext, settings: PublishedSettings, fitting: Fitting) -> Artefact | None:
    """`published_hybrids/`; None where the tuned model's traces have nothing to fit on."""
    config = {"published_hybrids": settings, "seed": context.study.seed}
    parents = {"fit-tuned": fitting.tuned.digest, "base": context.base.digest, "tuned": context.pair.tuned.digest}

    def compute(work: Path) -> None:
        by_id = {problem.id: problem for problem in context.fit_task.problems}
        rule = finest_rule(context.task.steps, context.fit_task.problems)
        found = fit_published(context.pair, read_traces(fitting.tuned), by_id, rule, settings, seed=context.study.seed)
        save_published(work, found, context.made_by("published_hybrids", config, parents))

    try:
        return memoised(context.out, "published_hybrids", config, parents, compute)
    except (VectorError, EstimateError) as reason:
        context.watch(f"published hybrids left out: {reason}", 1, 1)
        return None


def arms_of_published(published_hybrids: Artefact, seed: int) -> tuple[Arm, ...]:
    """The published methods, greedy as published, each also with one fault mended or its vectors replaced."""
    return tuple(
        Arm(
            name=arm.listed.name,
            label=arm.listed.label if arm.control_of else f"+ {arm.listed.label}",
            role=arm.listed.role,
            control=arm.listed.control,
            control_of=arm.control_of,
            method=arm.hybrid,
            temperature=0.0,
        )
        for arm in published_arms(load_published(published_hybrids.path), seed=seed)
    )


def published_table(arms: Sequence[Answered], weights: Int[np.ndarray, "boot _problem"]) -> pl.DataFrame:
    """`PUBLISHED`: every arm of a published method between the two models decoded greedily; without those no row."""
    mine = [arm for arm in arms if arm.family == "published"]
    ends = {arm.key.role: arm.rates("strict") for arm in arms if arm.key.decoding == "greedy" and arm.kind != "control"}
    if not mine or not {Role.BASE, Role.TUNED} <= ends.keys():
        return PUBLISHED.frame([])
    base, tuned = ends[Role.BASE], ends[Role.TUNED]
    rows = []
    for arm in mine:
        rates = arm.rates("strict")
        share = elicited_share(rates, base, tuned, weights)
        level = accuracy(arm.accepted("strict"), weights)
        switched = arm.label.split(", ", maxsplit=1)[1]
        rows.append(
            {
                "published": arm.key.role.partition("-")[0],
                "arm": arm.name,
                "label": arm.label,
                "fault": None if switched == "as published" else switched,
                "theirs": gap_recovered(rates.mean(), base.mean(), tuned.mean()),
                "share": share.value,
                "share_low": share.low,
                "share_high": share.high,
                "refusal": share.refusal,
                "accuracy": level.value,
                "low": level.low,
                "high": level.high,
                "gap": float(tuned.mean() - base.mean()),
                "truth": nan,
                "n_problems": len(rates),
            }
        )
    return PUBLISHED.frame(rows)
