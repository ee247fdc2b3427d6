"""Vector stage: fitting traces -> activations and decisions -> the steering vectors of the ladder."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file, save_file

from lab.seeds import numpy_generator, torch_generator
from lab.stage import Artefact, memoised
from lab.tables import read_table, replacing, write_table
from lab.tasks.problem import Problem
from steering.export.model_facts import facts_of
from steering.export.tensors import load_vector, save_vector
from steering.fit.gradient import fit_gradient
from steering.fit.mean_difference import mean_difference
from steering.fit.random import random_like
from steering.study.bench import Bench
from steering.study.evidence import ACTIVATIONS, DECISIONS, contexts, opening_activations
from steering.study.fitting import Fitting, strict
from steering.study.sampled import read_traces
from steering.vector import SteeringVector

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
