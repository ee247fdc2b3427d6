"""Lessons: what a fit learns from, as traces of two models and the disagreements in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import polars as pl
import torch

from elicitation.comparison.context import Ground
from elicitation.study.context import StudyContext
from elicitation.study.disagreements import DISAGREEMENTS, disagreements
from elicitation.study.fits import solved
from elicitation.study.sampled import own_traces, read_traces
from lab.models.pair import ModelPair
from lab.records.provenance import digest
from lab.records.seeds import torch_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table, write_table
from lab.tasks.problem import Problem

MAX_DISAGREEMENTS = 4096
"""Of these, a fit sees at most so many, drawn at random."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainingPairs:
    """Texts on two sides, and moments at which one model should write as the other does."""

    positive: pl.DataFrame
    """`TRACES` to move towards."""
    negative: pl.DataFrame
    """`TRACES` to move away from."""
    decided: pl.DataFrame
    """`DISAGREEMENTS` in some traces."""
    decided_in: pl.DataFrame
    """These."""
    problems: Mapping[str, Problem]
    description: str
    """What the sides are, in a few words."""
    digest: str
    """Of what determines them."""


def pair_lessons(ground: Ground, problems: Artefact) -> TrainingPairs:
    """What the tuned model solved and the base failed, on training problems."""
    context, parents = ground.context, {"problems": problems.digest}
    base = own_traces(context, context.base, "fit-base", parents, fitting=True)
    tuned = own_traces(context, context.pair.tuned, "fit-tuned", parents, fitting=True)
    sides = solved(context, tuned), solved(context, base, wanted=False)
    description = f"solved by {context.pair.tuned.name}, failed by {context.base.name}"
    return training_pairs(context, "disagreements", context.pair, *sides, description, {"base": base, "tuned": tuned})


def other_lessons(ground: Ground) -> TrainingPairs | None:
    """All traces of both models on the other task, solved or not: what they differ in, in another domain."""
    if ground.other_fit_task is None:
        return None
    context = replace(ground.context, fit_task=ground.other_fit_task)
    parents = {"problems": digest(context.fit_task.problems)}
    base = own_traces(context, context.base, "fit-other-base", parents, fitting=True)
    tuned = own_traces(context, context.pair.tuned, "fit-other-tuned", parents, fitting=True)
    description = f"all of {context.fit_task.name}, by {context.pair.tuned.name} and by {context.base.name}"
    sides = read_traces(tuned), read_traces(base)
    return training_pairs(
        context, "disagreements-other-task", context.pair, *sides, description, {"base": base, "tuned": tuned}
    )


def placebo_lessons(ground: Ground, problems: Artefact) -> TrainingPairs | None:
    """All traces of the base and of a model that was continued and not tuned: the scatter between two models."""
    if ground.placebo is None:
        return None
    context, parents = ground.context, {"problems": problems.digest}
    base = own_traces(context, context.base, "fit-base", parents, fitting=True)
    later = own_traces(context, ground.placebo.tuned, "fit-placebo", parents, fitting=True)
    description = f"all by {ground.placebo.tuned.name} and by {context.base.name}"
    sides = read_traces(later), read_traces(base)
    return training_pairs(
        context, "disagreements-placebo", ground.placebo, *sides, description, {"base": base, "tuned": later}
    )


def training_pairs(
    context: StudyContext,
    stage: str,
    pair: ModelPair,
    positive: pl.DataFrame,
    negative: pl.DataFrame,
    description: str,
    traces: Mapping[str, Artefact],
) -> TrainingPairs:
    """The lessons of two sides, with the stage that finds the disagreements."""
    by_id = {problem.id: problem for problem in context.fit_task.problems}
    parents = {side: artefact.digest for side, artefact in traces.items()}

    def compute(work: Path) -> None:
        found = disagreements(pair, positive, by_id)
        write_table(work / "disagreements.parquet", found, DISAGREEMENTS, context.made_by(stage, {}, parents))

    decided = memoised(context.out, stage, {}, parents, compute)
    return TrainingPairs(
        positive=positive,
        negative=negative,
        decided=read_table(decided.path / "disagreements.parquet", DISAGREEMENTS),
        decided_in=positive,
        problems=by_id,
        description=description,
        digest=decided.digest,
    )


def sides_forgotten(taught: TrainingPairs, seed: int, draw: int) -> TrainingPairs:
    """The same texts in two heaps of the old sizes, drawn from both sides: shuffled labels of a difference of means."""
    both = pl.concat([taught.positive, taught.negative])
    order = torch.randperm(both.height, generator=torch_generator(seed, "forgotten sides", draw)).tolist()
    n = taught.positive.height
    return replace(
        taught,
        positive=both[order[:n]],
        negative=both[order[n:]],
        description=f"sides forgotten ({taught.description})",
        digest=digest({"of": taught.digest, "seed": seed, "draw": draw}),
    )


def tokens_misplaced(taught: TrainingPairs, seed: int) -> TrainingPairs:
    """The same contexts, and as what comes next tokens from other places of the texts: shuffled labels of a likelihood.

    Permuting the targets of disagreements among themselves would be no control: where answers open they are all alike.
    """
    generator = torch_generator(seed, "misplaced tokens")
    lengths = taught.positive["tokens"].list.len().to_list()
    tokens = taught.positive["tokens"].explode()
    mixed = tokens[torch.randperm(len(tokens), generator=generator).tolist()].to_list() if lengths else []
    ends = list(accumulate(lengths, initial=0))
    misplaced = [mixed[start:end] for start, end in pairwise(ends)]
    written = taught.decided_in["tokens"].explode()
    drawn = torch.randint(max(1, len(written)), (taught.decided.height,), generator=generator).tolist()
    return replace(
        taught,
        positive=taught.positive.with_columns(pl.Series("tokens", misplaced, dtype=pl.List(pl.Int32))),
        decided=taught.decided.with_columns(written[drawn].alias("tuned_token") if drawn else pl.col("tuned_token")),
        description=f"tokens misplaced ({taught.description})",
        digest=digest({"of": taught.digest, "seed": seed}),
    )


def some_rows(frame: pl.DataFrame, most: int, generator: torch.Generator) -> pl.DataFrame:
    """At most so many rows, drawn at random, in their old order."""
    if frame.height <= most:
        return frame
    return frame[sorted(torch.randperm(frame.height, generator=generator)[:most].tolist())]
