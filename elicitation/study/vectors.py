"""Vector stage: fitting traces -> activations and decisions -> the steering vectors of the ladder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from elicitation.study.context import Bench
from elicitation.study.evidence import ACTIVATIONS, DECISIONS, contexts, decisions, opening_activations
from elicitation.study.sampled import own_traces, read_traces
from lab.records.seeds import numpy_generator, torch_generator
from lab.records.stage import Artefact, memoised
from lab.records.tables import read_table, replacing, write_table
from lab.sampling.trace import verdict_table
from lab.tasks.problem import Problem
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import facts_of
from steering.fits.controls import random_like
from steering.fits.gradient import fit_gradient
from steering.fits.mean_difference import mean_difference
from steering.vector import SteeringVector


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Finished stages on training problems, from which vectors are fitted and features learnt."""

    base: Artefact
    """The base model's traces."""
    tuned: Artefact
    """The tuned model's traces."""
    decided: Artefact
    """`DECISIONS` in those traces of the tuned model that solve their problem."""


def fitting_stage(bench: Bench, problems: Artefact) -> Fitting:
    """`traces-fit-base/`, `traces-fit-tuned/` and `decisions/`."""
    parents = {"problems": problems.digest}
    base = own_traces(bench, bench.base, "fit-base", parents, fitting=True)
    tuned = own_traces(bench, bench.pair.tuned, "fit-tuned", parents, fitting=True)
    parents = {"fit-base": base.digest, "fit-tuned": tuned.digest}

    def compute(work: Path) -> None:
        traces = read_traces(tuned)
        by_id = {problem.id: problem for problem in bench.fit_task.problems}
        found = decisions(bench.pair, traces.filter(strict(bench, traces)), by_id)
        write_table(work / "decisions.parquet", found, DECISIONS, bench.made_by("decisions", {}, parents))

    return Fitting(base=base, tuned=tuned, decided=memoised(bench.out, "decisions", {}, parents, compute))


def strict(bench: Bench, traces: pl.DataFrame) -> pl.Series:
    """Whether each trace of a training problem is right by a valid process."""
    return verdict_table(traces, bench.fit_task.problems, bench.fit_task.verify)["strict"]


N_RANDOM = 256
"""Random vectors that a random control spreads its rows over: so many that which were drawn hardly matters."""
MAX_DECISIONS = 4096
"""Decisions a vector is fitted on, at most; drawn at random from all."""


def vector_stage(bench: Bench, fitting: Fitting) -> tuple[Artefact, float]:
    """`activations/` and `vectors/`, and the share of tokens that open a completion."""
    parents = {"fit-base": fitting.base.digest, "fit-tuned": fitting.tuned.digest}
    by_base, by_tuned = read_traces(fitting.base), read_traces(fitting.tuned)
    failed = by_base.filter(~strict(bench, by_base))
    solved = by_tuned.filter(strict(bench, by_tuned))
    by_id = {problem.id: problem for problem in bench.fit_task.problems}

    def compute_activations(work: Path) -> None:
        tensor, index = opening_activations(bench.base, bench.site, {"positive": solved, "negative": failed}, by_id)
        made_by = bench.made_by("activations", str(bench.site), parents)
        with replacing(work / "activations.safetensors") as path:
            save_file({"activations": tensor}, path, metadata={"provenance": made_by.to_json()})
        write_table(work / "index.parquet", index, ACTIVATIONS, made_by)

    activations = memoised(bench.out, "activations", str(bench.site), parents, compute_activations)
    parents = {"activations": activations.digest, "decisions": fitting.decided.digest}
    config = {
        "site": str(bench.site),
        "fit": bench.study.fit,
        "kinds": wanted_fits(bench.study.arms),
        "seed": bench.study.seed,
    }

    def compute_vectors(work: Path) -> None:
        made_by = bench.made_by("vectors", config, parents)
        for name, vector in fitted_vectors(bench, activations, fitting.decided, by_tuned, by_id).items():
            save_vector(work / f"{name}.safetensors", vector, made_by, fitted_on=facts_of(bench.base))

    vectors = memoised(bench.out, "vectors", config, parents, compute_vectors)
    return vectors, round(1 / float(by_tuned["tokens"].list.len().mean()), 4)  # pyright: ignore[reportArgumentType]


def wanted_fits(arms: Sequence[str]) -> tuple[str, ...]:
    """Which gradient fits the named arms use; both where none is named, which means all arms."""
    users = {"fitted": ("fitted-always", "fitted-disagreement"), "opening": ("fitted-opening", "fitted-greedy")}
    return tuple(kind for kind, names in users.items() if not arms or set(names) & set(arms))


def fitted_vectors(
    bench: Bench, activations: Artefact, decided: Artefact, by_tuned: pl.DataFrame, by_id: dict[str, Problem]
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
    found = read_table(decided.path / "decisions.parquet", DECISIONS)
    if found.height > MAX_DECISIONS:
        chosen = numpy_generator(bench.study.seed, "decisions").choice(found.height, MAX_DECISIONS, replace=False)
        found = found[np.sort(chosen)]
    names = bench.base.name, bench.pair.tuned.name
    fits: dict[str, SteeringVector] = {}
    if len(positive) and len(negative):
        how = f"first tokens: {len(positive)} solved by {names[1]} minus {len(negative)} failed by {names[0]}"
        fits["mean"] = mean_difference(bench.site, positive, negative, how=how)
    # A vector serves one moment best if nothing else is asked of it: first tokens have a fit of their own.
    for kind, chosen in {"fitted": found, "opening": found.filter(pl.col("position") == 0)}.items():
        if chosen.height and kind in wanted_fits(bench.study.arms):
            fits[kind] = fit_gradient(
                bench.base,
                bench.site,
                contexts(bench.base, chosen, by_tuned, by_id),
                bench.study.fit,
                torch_generator(bench.study.seed, "fit"),
                how=f"gradient on {chosen.height} decisions where {names[1]} disagrees with {names[0]}"
                + (", first tokens only" if kind == "opening" else ""),
            )
    return fits


def read_vectors(vectors: Artefact, seed: int) -> dict[str, tuple[SteeringVector, ...]]:
    """The vectors of a finished stage by kind (`mean`, `fitted`, `opening`), and random draws of each (`like-mean`)."""
    fits = {path.stem: load_vector(path) for path in sorted(vectors.path.glob("*.safetensors"))}
    return {kind: (vector,) for kind, vector in fits.items()} | {
        f"like-{kind}": tuple(
            random_like(vector, torch_generator(seed, "random vector", draw)) for draw in range(N_RANDOM)
        )
        for kind, vector in fits.items()
    }
