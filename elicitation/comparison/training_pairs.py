"""TrainingPairs: what a fit learns from, as traces of two models and the disagreements in which they differ."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from elicitation.comparison.config import ComparisonContext
from elicitation.study.context import StudyContext
from elicitation.study.fits import (
    DISAGREEMENTS,
    contexts,
    decision_stage,
    first_token_activations,
    fitting_stage,
    solved,
)
from elicitation.study.sampled import own_traces, read_traces
from lab.models.load import Model, ModelPair
from lab.records.errors import VectorError
from lab.records.provenance import digest
from lab.records.seeds import torch_generator
from lab.records.stage import Artefact
from lab.records.tables import read_table
from lab.sampling.decoder import left_padded
from lab.scoring.evidence import Control
from lab.scoring.scores import trace_rows
from lab.tasks.problem import Problem
from probes.capture.site import Site
from steering.fits.fit import Completions, Disagreements

ITSELF = "itself"
"""Name of what is no control."""
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

    def sides(self, model: Model, site: Site) -> tuple[Float[Tensor, "_ d_model"], Float[Tensor, "_ d_model"]]:
        """Streams just after the first token of the positive and of the negative traces."""
        positive, negative = (
            first_token_activations(model, site, {"side": side}, self.problems)[0]
            for side in (self.positive, self.negative)
        )
        if not (len(positive) and len(negative)):
            raise VectorError(
                f"{len(positive)} and {len(negative)} traces {self.description}: want one at least on either side; "
                "draw more training traces"
            )
        return positive, negative

    def texts(self, model: Model, most: int, generator: torch.Generator) -> Completions:
        """The positive traces; of more than `most`, some."""
        rows = trace_rows(model, self._some(self.positive, most, generator), self.problems)
        padded = left_padded(model, [row.context + row.completion for row in rows])
        lengths = torch.tensor([len(row.completion) for row in rows], device=model.device)
        return Completions(padded.tokens, padded.mask, lengths)

    def first_tokens(self, model: Model, generator: torch.Generator) -> Disagreements:
        """Disagreements at the first token of a completion."""
        chosen = self._some(self.decided.filter(pl.col("position") == 0), MAX_DISAGREEMENTS, generator)
        return contexts(model, chosen, self.decided_in, self.problems)

    def _some(self, frame: pl.DataFrame, most: int, generator: torch.Generator) -> pl.DataFrame:
        if frame.is_empty():
            raise VectorError(f"nothing to learn from: no such text or decision among those {self.description}")
        return some_rows(frame, most, generator)


def training_pairs(comparing: ComparisonContext, problems: Artefact) -> dict[str, TrainingPairs]:
    """What the fits learn from as `itself`, and by name the controls that other texts give; rewards need none of it.

    The pair's own are what the tuned model solved and the base failed, on training problems. Those of the other task
    are all traces there, solved or not: what the models differ in, in another domain. Those of the placebo are all
    traces of the base and of a model that was continued and not tuned: the scatter between two models.
    """
    context, parents = comparing.context, {"problems": problems.digest}
    if set(comparing.methods) == {"policy"}:
        return {}
    base, tuned = context.base, context.pair.tuned
    fitting = fitting_stage(context, problems)
    right = solved(context, read_traces(fitting.tuned))
    failed = solved(context, read_traces(fitting.base), wanted=False)
    description = f"solved by {tuned.name}, failed by {base.name}"
    found = {ITSELF: decided_pairs(context, fitting.decided, right, failed, description)}
    if comparing.other_fit_task is not None:
        other = replace(context, fit_task=comparing.other_fit_task)
        task = {"problems": digest(other.fit_task.problems)}
        description = f"all of {other.fit_task.name}, by {tuned.name} and by {base.name}"
        names = ("fit-other-base", "fit-other-tuned")
        found[Control.OTHER_TASK] = all_pairs(other, context.pair, names, "other-task", task, description)
    if comparing.placebo is not None:
        description, names = f"all by {comparing.placebo.tuned.name} and by {base.name}", ("fit-base", "fit-placebo")
        found[Control.PLACEBO_PAIR] = all_pairs(context, comparing.placebo, names, "placebo", parents, description)
    return found


def all_pairs(
    context: StudyContext,
    pair: ModelPair,
    names: tuple[str, str],
    kind: str,
    parents: dict[str, str],
    description: str,
) -> TrainingPairs:
    """All traces of two models, sampled in the stages `names`, and their disagreements."""
    base, tuned = (
        own_traces(context, model, name, parents, fitting=True)
        for model, name in zip((pair.base, pair.tuned), names, strict=True)
    )
    by_base, by_tuned = read_traces(base), read_traces(tuned)
    decided = decision_stage(context, pair, f"disagreements-{kind}", by_tuned, {"base": base, "tuned": tuned})
    return decided_pairs(context, decided, by_tuned, by_base, description)


def decided_pairs(
    context: StudyContext, decided: Artefact, positive: pl.DataFrame, negative: pl.DataFrame, description: str
) -> TrainingPairs:
    """Traces of two sides, and the disagreements in the positive ones."""
    return TrainingPairs(
        positive=positive,
        negative=negative,
        decided=read_table(decided.path / "disagreements.parquet", DISAGREEMENTS),
        decided_in=positive,
        problems={problem.id: problem for problem in context.fit_task.problems},
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
