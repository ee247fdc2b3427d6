"""Fits: both models' traces of training problems -> where they disagree -> vectors, routers and published methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from elicitation.study.arms import N_RANDOM
from elicitation.study.config import StudyContext, Tables
from elicitation.study.sampled import own_traces, read_traces
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import EstimateError, VectorError
from lab.records.provenance import Provenance
from lab.records.seeds import numpy_generator, torch_generator
from lab.records.stage import Artefact
from lab.records.tables import Column, Schema, read_table, replacing, write_table
from lab.sampling.decoder import left_padded
from lab.sampling.trace import verdict_table
from lab.scoring.evidence import ArmKey, Role
from lab.scoring.scores import by_text, foresee, pieces, read_by_both, trace_rows
from lab.tasks.problem import Problem
from probes.capture.capture import capture
from probes.capture.site import Site
from probes.taxonomy.segments import finest_rule
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import facts_of
from steering.fits.fit import Disagreements
from steering.fits.fits import mean_difference
from steering.fits.gradient import fit_gradient
from steering.routing.routing import RoutingFit, fit_routing, save_routing
from steering.vector import SteeringVector, random_like

DISAGREEMENTS = Schema(
    "disagreements",
    (
        Column("problem_id", pl.String, "training problem"),
        Column("sample_index", pl.Int32, "the tuned model's trace of it"),
        Column("position", pl.Int32, "token of the completion that is at stake, from 0"),
        Column("base_token", pl.Int32, "what the base model would write there, greedily"),
        Column("tuned_token", pl.Int32, "what the tuned model would write there, greedily"),
    ),
)

ACTIVATIONS = Schema(
    "activations",
    (
        Column("row", pl.Int32, "row of the tensor `activations` in activations.safetensors"),
        Column("side", pl.String, "positive: solved by the tuned model; negative: failed by the base model"),
        Column("problem_id", pl.String, "training problem"),
        Column("sample_index", pl.Int32, "trace of it"),
        Column("position", pl.Int32, "token of the completion whose residual this is, from 0"),
        Column("token", pl.Int32, "that token's id"),
    ),
)


@torch.inference_mode()
def disagreements(pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> pl.DataFrame:
    """Every token of `traces` at which base and tuned model, reading the same text, would greedily differ."""
    names = traces.select("problem_id", "sample_index").rows(named=True)
    found: list[list[dict[str, object]]] = [[] for _ in names]

    def greedy(base: Tensor, tuned: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        return base.argmax(dim=-1), tuned.argmax(dim=-1)

    for chosen, by_base, by_tuned in read_by_both(pair, traces, problems):
        both = foresee(pair.base, by_base), foresee(pair.tuned, by_tuned)
        for index, (ours, theirs) in zip(chosen, by_text(greedy, *both, n_shared=pair.d_vocab), strict=True):
            for position in (ours != theirs).nonzero()[:, 0].tolist():
                tokens = {"base_token": int(ours[position]), "tuned_token": int(theirs[position])}
                found[index].append({**names[index], "position": position, **tokens})
    return DISAGREEMENTS.frame([row for text in found for row in text])


def contexts(
    model: Model, chosen: pl.DataFrame, traces: pl.DataFrame, problems: Mapping[str, Problem]
) -> Disagreements:
    """`DISAGREEMENTS` rows as input of the gradient fit: the text before each of them, and the tuned model's token."""
    keys = ("problem_id", "sample_index")
    tokens_of = {(problem, sample): tokens for problem, sample, tokens in traces.select(*keys, "tokens").iter_rows()}
    asked = {name: model.prompt_ids(problems[name].prompt) for name in chosen["problem_id"].unique()}
    prefixes = [
        asked[problem] + tokens_of[problem, sample][:position]
        for problem, sample, position in chosen.select(*keys, "position").iter_rows()
    ]
    padded = left_padded(model, prefixes)
    targets = torch.tensor(chosen["tuned_token"].to_list(), dtype=torch.long, device=model.device)
    return Disagreements(padded.tokens, padded.mask, targets)


def first_token_activations(
    model: Model, site: Site, sides: Mapping[str, pl.DataFrame], problems: Mapping[str, Problem]
) -> tuple[Float[Tensor, "row d_model"], pl.DataFrame]:
    """The residual just after the first token of every trace of every side, with its `ACTIVATIONS` index."""
    given = pl.concat([traces.with_columns(side=pl.lit(side)) for side, traces in sides.items()])
    index = given.select(
        pl.int_range(pl.len(), dtype=pl.Int32).alias("row"),
        "side",
        "problem_id",
        "sample_index",
        pl.lit(0, dtype=pl.Int32).alias("position"),
        pl.col("tokens").list.first().alias("token"),
    )
    rows = trace_rows(model, given, problems)
    joined = torch.zeros(len(rows), model.anatomy.d_model)
    for chosen, read in pieces(model, rows):
        stream = capture(model, read.tokens, read.mask, [site])[site]
        first = torch.tensor([-len(rows[place].completion) for place in chosen], device=stream.device)
        joined[list(chosen)] = stream[torch.arange(len(first), device=stream.device), first].float().cpu()
    return joined, ACTIVATIONS.checked(index)


MAX_DISAGREEMENTS = 4096
"""Disagreements a vector is fitted on, at most; drawn at random from all."""
FITTED_FOR = {
    "fitted": {
        Role.VECTOR_ALWAYS,
        Role.VECTOR_DISAGREEMENT,
        Role.VECTOR_SCHEDULE,
        Role.VECTOR_ENTROPY,
        Role.VECTOR_PROBE,
    },
    "first_token": {Role.VECTOR_FIRST_TOKEN},
}
"""Gradient fit -> the arms that use it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """Finished stages on training problems, from which vectors are fitted and features learnt."""

    base: Artefact
    """The base model's traces."""
    tuned: Artefact
    """The tuned model's traces."""
    decided: Artefact
    """`DISAGREEMENTS` in those traces of the tuned model that solve their problem."""

    @property
    def parents(self) -> dict[str, str]:
        """Their digests."""
        return {"fit-base": self.base.digest, "fit-tuned": self.tuned.digest, "disagreements": self.decided.digest}

    @property
    def disagreements(self) -> pl.DataFrame:
        """The table of `decided`."""
        return read_table(self.decided.path / "disagreements.parquet", DISAGREEMENTS)


def fitting_stage(context: StudyContext, problems: Artefact) -> Fitting:
    """`traces/fit-base/`, `traces/fit-tuned/` and `disagreements/`."""
    parents = {"problems": problems.digest}
    base = own_traces(context, context.base, "fit-base", parents, fitting=True)
    tuned = own_traces(context, context.pair.tuned, "fit-tuned", parents, fitting=True)
    right = solved(context, read_traces(tuned))
    decided = decision_stage(context, context.pair, "disagreements", right, {"fit-base": base, "fit-tuned": tuned})
    return Fitting(base=base, tuned=tuned, decided=decided)


def decision_stage(
    context: StudyContext, pair: ModelPair, name: str, traces: pl.DataFrame, sources: Mapping[str, Artefact]
) -> Artefact:
    """The stage `name/`: `DISAGREEMENTS` of a pair in some traces of training problems, which came from `sources`."""

    def compute() -> Tables:
        return {"disagreements": (DISAGREEMENTS, disagreements(pair, traces, context.fit_problems))}

    return context.tables(name, {}, {source: artefact.digest for source, artefact in sources.items()}, compute)


def solved(context: StudyContext, traces: pl.DataFrame, *, wanted: bool = True) -> pl.DataFrame:
    """Those traces of training problems that are right by a valid process; those that are not, where not `wanted`."""
    strict = verdict_table(traces, context.fit_task.problems, context.fit_task.verify)["strict"]
    return traces.filter(strict == wanted)


def vector_stage(context: StudyContext, fitting: Fitting) -> tuple[Artefact, float]:
    """`activations/` and `vectors/`, and the share of tokens that are the first of a completion."""
    study, site = context.study, str(context.site)
    parents = {name: digest for name, digest in fitting.parents.items() if name != "disagreements"}

    def compute_activations(work: Path, made_by: Provenance) -> None:
        by_tuned, by_base = read_traces(fitting.tuned), read_traces(fitting.base)
        sides = {"positive": solved(context, by_tuned), "negative": solved(context, by_base, wanted=False)}
        tensor, index = first_token_activations(context.base, context.site, sides, context.fit_problems)
        with replacing(work / "activations.safetensors") as path:
            save_file({"activations": tensor}, path, metadata={"provenance": made_by.to_json()})
        write_table(work / "index.parquet", index, ACTIVATIONS, made_by)

    activations = context.stage("activations", site, parents, compute_activations)
    of_vectors = {"activations": activations.digest, "disagreements": fitting.decided.digest}
    config = {"site": site, "fit": study.fit, "kinds": wanted_fits(study.arms), "seed": study.seed}

    def compute_vectors(work: Path, made_by: Provenance) -> None:
        for name, vector in fitted_vectors(context, activations, fitting).items():
            save_vector(work / f"{name}.safetensors", vector, made_by, fitted_on=facts_of(context.base))

    vectors = context.stage("vectors", config, of_vectors, compute_vectors)
    length = read_traces(fitting.tuned)["tokens"].list.len().mean()
    return vectors, round(1 / float(length), 4)  # pyright: ignore[reportArgumentType]


def wanted_fits(arms: Sequence[ArmKey]) -> tuple[str, ...]:
    """Which gradient fits these arms use; all where there is none, which means all arms."""
    return tuple(kind for kind, roles in FITTED_FOR.items() if not arms or roles & {key.role for key in arms})


def fitted_vectors(context: StudyContext, activations: Artefact, fitting: Fitting) -> dict[str, SteeringVector]:
    """The vectors of the ladder at the study's site, by name.

    A mean difference needs traces on both sides, a gradient fit at least one disagreement; what cannot be fitted, as on
    a pair whose models never differ, is left out.
    """
    study, (base, tuned) = context.study, (context.base.name, context.pair.tuned.name)
    tensor = load_file(activations.path / "activations.safetensors")["activations"]
    side = read_table(activations.path / "index.parquet", ACTIVATIONS)["side"]
    positive, negative = (tensor[torch.from_numpy((side == name).to_numpy())] for name in ("positive", "negative"))
    fits: dict[str, SteeringVector] = {}
    if len(positive) and len(negative):
        description = f"first tokens: {len(positive)} solved by {tuned} minus {len(negative)} failed by {base}"
        fits["mean"] = mean_difference(context.site, positive, negative, description=description)
    found = fitting.disagreements
    if found.height > MAX_DISAGREEMENTS:
        chosen = numpy_generator(study.seed, "decisions").choice(found.height, MAX_DISAGREEMENTS, replace=False)
        found = found[np.sort(chosen)]
    # A vector serves one moment best if nothing else is asked of it: first tokens have a fit of their own.
    for kind, chosen in {"fitted": found, "first_token": found.filter(position=0)}.items():
        if chosen.height and kind in wanted_fits(study.arms):
            only = ", first tokens only" if kind == "first_token" else ""
            description = f"gradient on {chosen.height} tokens where {tuned} disagrees with {base}{only}"
            texts = contexts(context.base, chosen, read_traces(fitting.tuned), context.fit_problems)
            generator = torch_generator(study.seed, "fit")
            fits[kind] = fit_gradient(context.base, context.site, texts, study.fit, generator, description=description)
    return fits


def read_vectors(vectors: Artefact, seed: int) -> dict[str, tuple[SteeringVector, ...]]:
    """The vectors of a finished stage by kind (`mean`, `fitted`, `first_token`), and draws like each (`like-mean`)."""
    fits = {path.stem: load_vector(path) for path in sorted(vectors.path.glob("*.safetensors"))}
    found: dict[str, tuple[SteeringVector, ...]] = {kind: (vector,) for kind, vector in fits.items()}
    for kind, vector in fits.items():
        generators = (torch_generator(seed, "random vector", draw) for draw in range(N_RANDOM))
        found[f"like-{kind}"] = tuple(random_like(vector, generator) for generator in generators)
    return found


def routing_stage(context: StudyContext, settings: RoutingFit, fitting: Fitting) -> Artefact | None:
    """`routing/`; None where models disagree on fewer than two training problems, so that nothing says when to act."""
    if fitting.disagreements["problem_id"].n_unique() < 2:
        return None
    config = {"site": str(context.site), "routing": settings, "seed": context.study.seed}

    def compute(work: Path, made_by: Provenance) -> None:
        texts = read_traces(fitting.base), solved(context, read_traces(fitting.tuned))
        learnt = *texts, fitting.disagreements, context.fit_problems
        rule, seed = finest_rule(context.task.steps, context.fit_task.problems), context.study.seed
        routing = fit_routing(context.pair, context.site, *learnt, rule, settings, seed=seed)
        save_routing(work, routing, made_by, fitted_on=facts_of(context.base))

    return context.stage("routing", config, fitting.parents, compute)


def published_stage(context: StudyContext, fitting: Fitting) -> Artefact | None:
    """`published_hybrids/`; None where the tuned model's traces have nothing to fit on."""
    # Here, since few studies run them.
    from steering.published_hybrids.fit_published import fit_published
    from steering.published_hybrids.material import PublishedSettings
    from steering.published_hybrids.published_hybrids import save_published

    settings, seed = context.study.published or PublishedSettings(), context.study.seed
    config = {"published_hybrids": settings, "seed": seed}
    parents = {"fit-tuned": fitting.tuned.digest, "base": context.base.digest, "tuned": context.pair.tuned.digest}

    def compute(work: Path, made_by: Provenance) -> None:
        rule = finest_rule(context.task.steps, context.fit_task.problems)
        by_tuned = read_traces(fitting.tuned)
        found = fit_published(context.pair, by_tuned, context.fit_problems, rule, settings, seed=seed)
        save_published(work, found, made_by)

    try:
        return context.stage("published_hybrids", config, parents, compute)
    except (VectorError, EstimateError) as reason:
        context.watch(f"published hybrids left out: {reason}", 1, 1)
        return None
