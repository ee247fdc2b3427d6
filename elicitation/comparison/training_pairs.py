"""Lessons: what a fit learns from, as traces of two models and the decisions in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from pathlib import Path

import polars as pl
import torch

from elicitation.comparison.context import Ground
from elicitation.study.context import Bench
from elicitation.study.evidence import DECISIONS, decisions
from elicitation.study.sampled import own_traces, read_traces
from elicitation.study.vectors import strict
from lab.models.pair import ModelPair
from lab.records.provenance import digest
from lab.records.seeds import torch_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table, write_table
from lab.tasks.problem import Problem

MAX_DECISIONS = 4096
"""Of these, a fit sees at most so many, drawn at random."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lessons:
    """Texts on two sides, and moments at which one model should write as the other does."""

    positive: pl.DataFrame
    """`TRACES` to move towards."""
    negative: pl.DataFrame
    """`TRACES` to move away from."""
    decided: pl.DataFrame
    """`DECISIONS` in some traces."""
    decided_in: pl.DataFrame
    """These."""
    problems: Mapping[str, Problem]
    told: str
    """What the sides are, in a few words."""
    digest: str
    """Of what determines them."""


def pair_lessons(ground: Ground, problems: Artefact) -> Lessons:
    """What the tuned model solved and the base failed, on training problems."""
    bench, parents = ground.bench, {"problems": problems.digest}
    base = own_traces(bench, bench.base, "fit-base", parents, fitting=True)
    tuned = own_traces(bench, bench.pair.tuned, "fit-tuned", parents, fitting=True)
    by_base, by_tuned = read_traces(base), read_traces(tuned)
    solved, failed = by_tuned.filter(strict(bench, by_tuned)), by_base.filter(~strict(bench, by_base))
    told = f"solved by {bench.pair.tuned.name}, failed by {bench.base.name}"
    return lessons(bench, "decisions", bench.pair, solved, failed, told, {"base": base, "tuned": tuned})


def other_lessons(ground: Ground) -> Lessons | None:
    """All traces of both models on the other task, solved or not: what they differ in, in another domain."""
    if ground.other_fit_task is None:
        return None
    bench = replace(ground.bench, fit_task=ground.other_fit_task)
    parents = {"problems": digest(bench.fit_task.problems)}
    base = own_traces(bench, bench.base, "fit-other-base", parents, fitting=True)
    tuned = own_traces(bench, bench.pair.tuned, "fit-other-tuned", parents, fitting=True)
    told = f"all of {bench.fit_task.name}, by {bench.pair.tuned.name} and by {bench.base.name}"
    sides = read_traces(tuned), read_traces(base)
    return lessons(bench, "decisions-other-task", bench.pair, *sides, told, {"base": base, "tuned": tuned})


def placebo_lessons(ground: Ground, problems: Artefact) -> Lessons | None:
    """All traces of the base and of a model that was continued and not tuned: the scatter between two models."""
    if ground.placebo is None:
        return None
    bench, parents = ground.bench, {"problems": problems.digest}
    base = own_traces(bench, bench.base, "fit-base", parents, fitting=True)
    later = own_traces(bench, ground.placebo.tuned, "fit-placebo", parents, fitting=True)
    told = f"all by {ground.placebo.tuned.name} and by {bench.base.name}"
    sides = read_traces(later), read_traces(base)
    return lessons(bench, "decisions-placebo", ground.placebo, *sides, told, {"base": base, "tuned": later})


def lessons(
    bench: Bench,
    stage: str,
    pair: ModelPair,
    positive: pl.DataFrame,
    negative: pl.DataFrame,
    told: str,
    traces: Mapping[str, Artefact],
) -> Lessons:
    """The lessons of two sides, with the stage that finds the decisions."""
    by_id = {problem.id: problem for problem in bench.fit_task.problems}
    parents = {side: artefact.digest for side, artefact in traces.items()}

    def compute(work: Path) -> None:
        found = decisions(pair, positive, by_id)
        write_table(work / "decisions.parquet", found, DECISIONS, bench.made_by(stage, {}, parents))

    decided = memoised(bench.out, stage, {}, parents, compute)
    return Lessons(
        positive=positive,
        negative=negative,
        decided=read_table(decided.path / "decisions.parquet", DECISIONS),
        decided_in=positive,
        problems=by_id,
        told=told,
        digest=decided.digest,
    )


def sides_forgotten(taught: Lessons, seed: int, draw: int) -> Lessons:
    """The same texts in two heaps of the old sizes, drawn from both sides: shuffled labels of a difference of means."""
    both = pl.concat([taught.positive, taught.negative])
    order = torch.randperm(both.height, generator=torch_generator(seed, "forgotten sides", draw)).tolist()
    n = taught.positive.height
    return replace(
        taught,
        positive=both[order[:n]],
        negative=both[order[n:]],
        told=f"sides forgotten ({taught.told})",
        digest=digest({"of": taught.digest, "seed": seed, "draw": draw}),
    )


def tokens_misplaced(taught: Lessons, seed: int) -> Lessons:
    """The same contexts, and as what comes next tokens from other places of the texts: shuffled labels of a likelihood.

    Permuting the targets of decisions among themselves would be no control: where answers open they are all alike.
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
        told=f"tokens misplaced ({taught.told})",
        digest=digest({"of": taught.digest, "seed": seed}),
    )


def some_rows(frame: pl.DataFrame, most: int, generator: torch.Generator) -> pl.DataFrame:
    """At most so many rows, drawn at random, in their old order."""
    if frame.height <= most:
        return frame
    return frame[sorted(torch.randperm(frame.height, generator=generator)[:most].tolist())]
