"""fit_routing: every fitted way to say when and with which vector the base model is steered."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lab.metrics.bootstrap import Interval
from lab.models.load import Model, ModelPair
from lab.records.errors import LabError, StorageError, VectorError
from lab.records.provenance import Provenance, canonical_json
from lab.records.seeds import child_seed, numpy_generator
from lab.records.tables import replacing, write_text
from lab.sampling.decoder import left_padded
from lab.tasks.problem import Problem
from probes.capture.site import Site
from probes.taxonomy.segments import Rule
from probes.taxonomy.taxonomy import KMeans, Method, load_taxonomy, save_taxonomy
from steering.export.tensors import load_vector, save_vector
from steering.export.vector_file import ModelFacts
from steering.fits.examples import Disagreements
from steering.fits.gradient import GradientFit
from steering.hybrid.routers import EntropyAbove, LinearProbe, Scheduled
from steering.routing.category_vectors import (
    CategoryVectors,
    Moments,
    fit_category_vectors,
    moment_taxonomy,
    moments,
    streams_before,
)
from steering.routing.fit_router import ProbeQuality, fit_entropy, fit_probe, fit_schedule


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingFit:
    """How to look for routers and categories."""

    n_categories: int = 5
    """Kinds of disagreements, each with a vector of its own."""
    method: Method = field(default_factory=KMeans, metadata={"flag": None})
    """Of the taxonomies. Centres of `k_means` come out much alike from seed to seed, which few categories need."""
    min_disagreements: int = 8
    """A category with fewer is not steered."""
    max_disagreements: int = 4096
    """Disagreements that the vectors are fitted on, at most; drawn at random from all."""
    vectors: GradientFit = field(default_factory=lambda: GradientFit(n_steps=40), metadata={"flag": None})
    """There are several, each of one kind of disagreement, which takes fewer steps than one vector of all kinds."""

    def __post_init__(self) -> None:
        if min(self.n_categories, self.min_disagreements, self.max_disagreements) < 1:
            raise VectorError(
                f"{self.n_categories} categories, of {self.min_disagreements} disagreements at least and "
                f"{self.max_disagreements} in all: want 1 or more of each"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Routing:
    """Routers, and tables of vectors, that were fitted to how one pair decides on the same traces."""

    probe: LinearProbe
    """Reads the base model."""
    probe_quality: ProbeQuality
    entropy: EntropyAbove
    schedule: Scheduled
    base_side: CategoryVectors
    """Its categories are read off the base model's stream, so the tuned model need not run."""
    tuned_side: CategoryVectors
    """Its categories are read off the tuned model's stream."""


class _Decided(NamedTuple):
    """Disagreements as places in texts and as input of a fit, in the same order."""

    texts: Int[np.ndarray, " disagreement"]
    positions: Int[np.ndarray, " disagreement"]
    examples: Disagreements


def fit_routing(
    pair: ModelPair,
    site: Site,
    by_base: pl.DataFrame,
    by_tuned: pl.DataFrame,
    disagreements: pl.DataFrame,
    problems: Mapping[str, Problem],
    rule: Rule,
    settings: RoutingFit,
    *,
    seed: int,
) -> Routing:
    """Everything of a `Routing`, at one site of both models.

    `by_base` and `by_tuned` are `TRACES` rows of training problems, one arm each; `disagreements` are all
    `DISAGREEMENTS` in `by_tuned`, which is therefore to hold those traces only in which they were looked for. `rule`
    cuts texts into the segments that categories are learned from. Probe, schedule, taxonomies and vectors come of
    `by_tuned`, the bound on entropy of `by_base` and the share of disagreements.

    Raises VectorError where fewer than two problems have a disagreement, as in a pair of equal models; StorageError and
    EstimateError as `moment_taxonomy` does; SiteError for a layer out of range.
    """
    when = moments(pair.base, by_tuned, disagreements, problems)
    probe, quality = fit_probe(pair.base, site, when, seed=child_seed(seed, "probe"))
    decided = _decided(pair.base, by_tuned, when, disagreements, settings.max_disagreements, seed)

    def side(reader: Literal["base", "tuned"], model: Model) -> CategoryVectors:
        taxonomy = moment_taxonomy(
            model, site, when, rule, settings.n_categories, method=settings.method, seed=child_seed(seed, reader)
        )
        return fit_category_vectors(
            pair.base,
            site,
            taxonomy,
            reader,
            streams_before(model, site, when.rows, decided.texts, decided.positions),
            decided.examples,
            settings.vectors,
            min_disagreements=settings.min_disagreements,
            seed=child_seed(seed, "vectors"),
        )

    return Routing(
        probe=probe,
        probe_quality=quality,
        entropy=fit_entropy(pair.base, by_base, problems, when.decided_share),
        schedule=fit_schedule(when),
        base_side=side("base", pair.base),
        tuned_side=side("tuned", pair.tuned),
    )


def _decided(
    base: Model, traces: pl.DataFrame, when: Moments, disagreements: pl.DataFrame, most: int, seed: int
) -> _Decided:
    """At most `most` of the disagreements."""
    if disagreements.height > most:
        drawn = numpy_generator(seed, "decisions").choice(disagreements.height, most, replace=False)
        disagreements = disagreements[np.sort(drawn)]
    keys = ["problem_id", "sample_index"]
    found = disagreements.join(traces.select(keys).with_row_index("text"), on=keys, how="left", maintain_order="left")
    texts, positions = (found[name].to_numpy().astype(np.int64) for name in ("text", "position"))
    prefixes = [
        when.rows[text].context + when.rows[text].completion[:position]
        for text, position in zip(texts.tolist(), positions.tolist(), strict=True)
    ]
    targets = torch.tensor(disagreements["tuned_token"].to_list(), dtype=torch.long, device=base.device)
    return _Decided(texts, positions, Disagreements(*left_padded(base, prefixes), targets))


FORMAT = "elicitation-lab.routing.1"
NAME = "routing.json"
PROBE = "probe.safetensors"


def save_routing(directory: Path, routing: Routing, made_by: Provenance, *, fitted_on: ModelFacts) -> None:
    """Writes `routing` into `directory`; without the last file, which says that all are there, it is not one.

    Every vector is a file that can be exported by itself; `fitted_on` is the base model. Equal work gives equal bytes.
    """
    with replacing(directory / PROBE) as path:
        save_file({"weight": routing.probe.weight.contiguous()}, path, metadata={"provenance": made_by.to_json()})
    for found in (routing.base_side, routing.tuned_side):
        save_taxonomy(_taxonomy_path(directory, found.reader), found.taxonomy, made_by)
        for index, vector in enumerate(found.vectors):
            save_vector(_vector_path(directory, found.reader, index), vector, made_by, fitted_on=fitted_on)
    described = {
        "format": FORMAT,
        "provenance": made_by,
        "site": str(routing.probe.site),
        "bias": routing.probe.bias,
        "quality": routing.probe_quality._asdict() | {"auroc": asdict(routing.probe_quality.auroc)},
        "nats": routing.entropy.nats,
        "rates": routing.schedule.rates,
        "n_disagreements": {found.reader: found.n_disagreements for found in (routing.base_side, routing.tuned_side)},
    }
    write_text(directory / NAME, canonical_json(described))


def load_routing(directory: Path) -> Routing:
    """The inverse of `save_routing`, on the CPU; StorageError for what is missing, damaged or no routing."""
    try:
        described = json.loads((directory / NAME).read_text(encoding="utf-8"))
        if described.get("format") != FORMAT:
            raise StorageError(f"its format is {described.get('format')!r}, want {FORMAT!r}")
        quality = described["quality"]
        weight = load_file(directory / PROBE)["weight"]
        return Routing(
            probe=LinearProbe(Site.parse(described["site"]), weight, described["bias"]),
            probe_quality=ProbeQuality(**quality | {"auroc": Interval(**quality["auroc"])}),
            entropy=EntropyAbove(described["nats"]),
            schedule=Scheduled(tuple(described["rates"])),
            base_side=_side(directory, "base", described["n_disagreements"]["base"]),
            tuned_side=_side(directory, "tuned", described["n_disagreements"]["tuned"]),
        )
    except (OSError, SafetensorError, LabError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"cannot read a routing from {directory}: {error}; name another, or fit it again") from error


def _side(directory: Path, reader: Literal["base", "tuned"], n_disagreements: list[int]) -> CategoryVectors:
    return CategoryVectors(
        taxonomy=load_taxonomy(_taxonomy_path(directory, reader)),
        reader=reader,
        vectors=tuple(load_vector(_vector_path(directory, reader, index)) for index in range(len(n_disagreements))),
        n_disagreements=tuple(n_disagreements),
    )


def _taxonomy_path(directory: Path, reader: str) -> Path:
    return directory / f"{reader}-taxonomy.safetensors"


def _vector_path(directory: Path, reader: str, category: int) -> Path:
    return directory / f"{reader}-vector-{category}.safetensors"
