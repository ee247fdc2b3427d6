"""fit_routing: every fitted way to say when and with which vector the base model is steered."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Int

from lab.errors import VectorError
from lab.models.load import Model
from lab.models.padding import left_padded
from lab.models.pair import ModelPair
from lab.seeds import child_seed, numpy_generator
from lab.tasks.problem import Problem
from probes.site import Site
from probes.taxonomy.fit import KMeans, Method
from probes.taxonomy.segments import Rule
from steering.fit.examples import Decisions
from steering.fit.gradient import GradientFit
from steering.hybrid.linear_probe import LinearProbe
from steering.hybrid.router import EntropyAbove, Scheduled
from steering.routing.category_vectors import CategoryVectors, fit_category_vectors
from steering.routing.fit_entropy import fit_entropy
from steering.routing.fit_probe import ProbeQuality, fit_probe
from steering.routing.fit_schedule import fit_schedule
from steering.routing.moment_taxonomy import moment_taxonomy
from steering.routing.moments import Moments, moments, streams_before


@dataclass(frozen=True, kw_only=True, slots=True)
class RoutingFit:
    """How to look for routers and categories."""

    n_categories: int = 5
    method: Method = field(default_factory=KMeans)
    """Of the taxonomies. Centres of `k_means` come out much alike from seed to seed, which few categories need."""
    min_decisions: int = 8
    """A category with fewer is not steered."""
    max_decisions: int = 4096
    """Decisions that the vectors are fitted on, at most; drawn at random from all."""
    vectors: GradientFit = field(default_factory=lambda: GradientFit(n_steps=40))
    """There are several, each of one kind of decision, which takes fewer steps than one vector of all kinds."""

    def __post_init__(self) -> None:
        if min(self.n_categories, self.min_decisions, self.max_decisions) < 1:
            raise VectorError(
                f"{self.n_categories} categories, of {self.min_decisions} decisions at least and {self.max_decisions} "
                "in all: want 1 or more of each"
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
    """Decisions as places in texts and as input of a fit, in the same order."""

    texts: Int[np.ndarray, " decision"]
    positions: Int[np.ndarray, " decision"]
    examples: Decisions


def fit_routing(
    pair: ModelPair,
    site: Site,
    by_base: pl.DataFrame,
    by_tuned: pl.DataFrame,
    decisions: pl.DataFrame,
    problems: Mapping[str, Problem],
    rule: Rule,
    settings: RoutingFit,
    *,
    seed: int,
) -> Routing:
    """Everything of a `Routing`, at one site of both models.

    `by_base` and `by_tuned` are `TRACES` rows of training problems, one arm each; `decisions` are all `DECISIONS` in
    `by_tuned`, which is therefore to hold those traces only in which decisions were looked for. `rule` cuts texts into
    the segments that categories are learned from. Probe, schedule, taxonomies and vectors come of `by_tuned`, the bound
    on entropy of `by_base` and the share of decisions.

    Raises VectorError where fewer than two problems have a decision, as in a pair of equal models; StorageError and
    EstimateError as `moment_taxonomy` does; SiteError for a layer out of range.
    """
    when = moments(pair.base, by_tuned, decisions, problems)
    probe, quality = fit_probe(pair.base, site, when, seed=child_seed(seed, "probe"))
    decided = _decided(pair.base, by_tuned, when, decisions, settings.max_decisions, seed)

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
            min_decisions=settings.min_decisions,
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
    base: Model, traces: pl.DataFrame, when: Moments, decisions: pl.DataFrame, most: int, seed: int
) -> _Decided:
    """At most `most` of the decisions."""
    if decisions.height > most:
        drawn = numpy_generator(seed, "decisions").choice(decisions.height, most, replace=False)
        decisions = decisions[np.sort(drawn)]
    keys = ["problem_id", "sample_index"]
    found = decisions.join(traces.select(keys).with_row_index("text"), on=keys, how="left", maintain_order="left")
    texts, positions = (found[name].to_numpy().astype(np.int64) for name in ("text", "position"))
    prefixes = [
        when.rows[text].context + when.rows[text].completion[:position]
        for text, position in zip(texts.tolist(), positions.tolist(), strict=True)
    ]
    targets = torch.tensor(decisions["tuned_token"].to_list(), dtype=torch.long, device=base.device)
    return _Decided(texts, positions, Decisions(*left_padded(base, prefixes), targets))
