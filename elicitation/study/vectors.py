"""Vector stage: fitting traces -> activations and disagreements -> the steering vectors of the ladder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from elicitation.study.context import StudyContext
from elicitation.study.evidence import ACTIVATIONS, DISAGREEMENTS, contexts, disagreements, first_token_activations
from elicitation.study.sampled import own_traces, read_traces
from lab.models.pair import ModelPair
from lab.records.seeds import numpy_generator, torch_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table, replacing, write_table
from lab.sampling.trace import verdict_table
from lab.scoring.evidence import ArmKey, Role
from lab.tasks.problem import Problem
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import facts_of
from steering.fits.fits import mean_difference
from steering.fits.gradient import fit_gradient
from steering.vector import SteeringVector, random_like


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Finished stages on training problems, from which vectors are fitted and features learnt."""

    base: Artefact
    """The base model's traces."""
    tuned: Artefact
    """The tuned model's traces."""
    decided: Artefact
    """`DISAGREEMENTS` in those traces of the tuned model that solve their problem."""


def fitting_stage(context: StudyContext, problems: Artefact) -> Fitting:
    """`traces/fit-base/`, `traces/fit-tuned/` and `disagreements/`."""
    parents = {"problems": problems.digest}
    base = own_traces(context, context.base, "fit-base", parents, fitting=True)
    tuned = own_traces(context, context.pair.tuned, "fit-tuned", parents, fitting=True)
    traces = read_traces(tuned)
    solved = traces.filter(strict(context, traces))
    decided = decision_stage(context, context.pair, "disagreements", solved, {"fit-base": base, "fit-tuned": tuned})
    return Fitting(base=base, tuned=tuned, decided=decided)


def decision_stage(
    context: StudyContext, pair: ModelPair, name: str, traces: pl.DataFrame, sources: Mapping[str, Artefact]
) -> Artefact:
    """The stage `name/`: `DISAGREEMENTS` of a pair in some traces of training problems, which came from `sources`."""
    parents = {source: artefact.digest for source, artefact in sources.items()}

    def compute(work: Path) -> None:
        found = disagreements(pair, traces, {problem.id: problem for problem in context.fit_task.problems})
        write_table(work / "disagreements.parquet", found, DISAGREEMENTS, context.made_by(name, {}, parents))

    return memoised(context.out, name, {}, parents, compute)


def strict(context: StudyContext, traces: pl.DataFrame) -> pl.Series:
    """Whether each trace of a training problem is right by a valid process."""
    return verdict_table(traces, context.fit_task.problems, context.fit_task.verify)["strict"]


N_RANDOM = 256
"""Random vectors that a random control spreads its rows over: so many that which were drawn hardly matters."""
MAX_DISAGREEMENTS = 4096
"""Decisions a vector is fitted on, at most; drawn at random from all."""


def vector_stage(context: StudyContext, fitting: Fitting) -> tuple[Artefact, float]:
    """`activations/` and `vectors/`, and the share of tokens that are the first of a completion."""
    parents = {"fit-base": fitting.base.digest, "fit-tuned": fitting.tuned.digest}
    by_base, by_tuned = read_traces(fitting.base), read_traces(fitting.tuned)
    failed = by_base.filter(~strict(context, by_base))
    solved = by_tuned.filter(strict(context, by_tuned))
    by_id = {problem.id: problem for problem in context.fit_task.problems}

    def compute_activations(work: Path) -> None:
        tensor, index = first_token_activations(
            context.base, context.site, {"positive": solved, "negative": failed}, by_id
        )
        made_by = context.made_by("activations", str(context.site), parents)
        with replacing(work / "activations.safetensors") as path:
            save_file({"activations": tensor}, path, metadata={"provenance": made_by.to_json()})
        write_table(work / "index.parquet", index, ACTIVATIONS, made_by)

    activations = memoised(context.out, "activations", str(context.site), parents, compute_activations)
    parents = {"activations": activations.digest, "disagreements": fitting.decided.digest}
    config = {
        "site": str(context.site),
        "fit": context.study.fit,
        "kinds": wanted_fits(context.study.arms),
        "seed": context.study.seed,
    }

    def compute_vectors(work: Path) -> None:
        made_by = context.made_by("vectors", config, parents)
        for name, vector in fitted_vectors(context, activations, fitting.decided, by_tuned, by_id).items():
            save_vector(work / f"{name}.safetensors", vector, made_by, fitted_on=facts_of(context.base))

    vectors = memoised(context.out, "vectors", config, parents, compute_vectors)
    return vectors, round(1 / float(by_tuned["tokens"].list.len().mean()), 4)  # pyright: ignore[reportArgumentType]


def wanted_fits(arms: Sequence[ArmKey]) -> tuple[str, ...]:
    """Which gradient fits these arms use; both where there is none, which means all arms."""
    users = {"fitted": {Role.VECTOR_ALWAYS, Role.VECTOR_DISAGREEMENT}, "first_token": {Role.VECTOR_FIRST_TOKEN}}
    asked = {key.role for key in arms if key.control is None}
    return tuple(kind for kind, roles in users.items() if not arms or roles & asked)


def fitted_vectors(
    context: StudyContext, activations: Artefact, decided: Artefact, by_tuned: pl.DataFrame, by_id: dict[str, Problem]
) -> dict[str, SteeringVector]:
    """The vectors of the ladder at the study's site, by name.

    A mean difference needs traces on both sides, a gradient fit at least one decision; what cannot be fitted, as on a
    pair whose models never differ, is left out.
    """
    index = read_table(activations.path / "index.parquet", ACTIVATIONS)
    tensor = load_file(activations.path / "activations.safetensors")["activations"]
    positive, negative = (
        tensor[torch.tensor(index.filter(pl.col("side") == side)["row"].to_list(), dtype=torch.long)]
        for side in ("positive", "negative")
    )
    found = read_table(decided.path / "disagreements.parquet", DISAGREEMENTS)
    if found.height > MAX_DISAGREEMENTS:
        chosen = numpy_generator(context.study.seed, "decisions").choice(found.height, MAX_DISAGREEMENTS, replace=False)
        found = found[np.sort(chosen)]
    names = context.base.name, context.pair.tuned.name
    fits: dict[str, SteeringVector] = {}
    if len(positive) and len(negative):
        description = f"first tokens: {len(positive)} solved by {names[1]} minus {len(negative)} failed by {names[0]}"
        fits["mean"] = mean_difference(context.site, positive, negative, description=description)
    # A vector serves one moment best if nothing else is asked of it: first tokens have a fit of their own.
    for kind, chosen in {"fitted": found, "first_token": found.filter(pl.col("position") == 0)}.items():
        if chosen.height and kind in wanted_fits(context.study.arms):
            fits[kind] = fit_gradient(
                context.base,
                context.site,
                contexts(context.base, chosen, by_tuned, by_id),
                context.study.fit,
                torch_generator(context.study.seed, "fit"),
                description=f"gradient on {chosen.height} tokens where {names[1]} disagrees with {names[0]}"
                + (", first tokens only" if kind == "first_token" else ""),
            )
    return fits


def read_vectors(vectors: Artefact, seed: int) -> dict[str, tuple[SteeringVector, ...]]:
    """The vectors of a finished stage by kind (`mean`, `fitted`, `first_token`), and draws like each (`like-mean`)."""
    fits = {path.stem: load_vector(path) for path in sorted(vectors.path.glob("*.safetensors"))}
    return {kind: (vector,) for kind, vector in fits.items()} | {
        f"like-{kind}": tuple(
            random_like(vector, torch_generator(seed, "random vector", draw)) for draw in range(N_RANDOM)
        )
        for kind, vector in fits.items()
    }
