"""hybrid_of: a rival's recipe and its fits, as a hybrid."""

from collections.abc import Sequence
from dataclasses import replace
from typing import assert_never

import torch

from lab.records.seeds import torch_generator
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add, AddScaled
from steering.fits.controls import random_like
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Steer
from steering.hybrid.sweep import FirstChooser, Sweep
from steering.hybrid.vector_table import Drawn, PerCategory, RandomCategory, VectorTable
from steering.published_hybrids.published_hybrids import PublishedHybrids
from steering.published_hybrids.recipe import (
    P1,
    P2,
    AllRandom,
    AllTokens,
    BiasOnly,
    CategoryReading,
    Disagreements,
    FittedSite,
    Learned,
    Normalised,
    NormMatched,
    NormOne,
    OffByOne,
    Place,
    RandomFiring,
    Raw,
    Recipe,
)
from steering.vector import SteeringVector

N_RANDOM = 64
"""Random vectors that a control of the first rival spreads its rows over."""


def hybrid_of(published: PublishedHybrids, recipe: Recipe, *, seed: int) -> Hybrid:
    """`recipe` with the vectors that it asks for; `seed` decides random ones."""
    match recipe:
        case P1():
            table = _constant_table(published, recipe, seed)
            # The first candidate is the only one that this chooser reads.
            n = 1 if isinstance(recipe.chooser, FirstChooser) else None
            return Hybrid(recipe.router, Sweep(table, recipe.doses[:n], recipe.windows[:n], recipe.chooser))
        case P2():
            return Hybrid(recipe.router, Steer(_scaled_table(published, recipe, seed)))
        case never:
            assert_never(never)


def raw_taxonomy(taxonomy: Taxonomy, stream_norm: float) -> Taxonomy:
    """Reads the stream neither centred nor normalised, exactly so for streams of norm `stream_norm`.

    A category's raw score is h . w + b. A taxonomy divides h by its norm, which changes no order if b is divided by it
    too; the mean norm stands for that of each stream.
    """
    return replace(taxonomy, mean=torch.zeros_like(taxonomy.mean), b_enc=taxonomy.b_enc / stream_norm)


def at_output(vector: SteeringVector) -> SteeringVector:
    """What was found at the input of a block, moved to the block's output."""
    (site,) = vector.sites
    output = Site(site.layer, "resid_post")
    description = f"{vector.description}, moved to {output}"
    return SteeringVector({output: vector.directions[site]}, {output: float("nan")}, description)


def _constant_table(published: PublishedHybrids, recipe: P1, seed: int) -> VectorTable:
    match recipe.fitted_on:
        case AllTokens():
            fit = published.on_all_tokens
        case Disagreements():
            fit = published.on_disagreements
        case never:
            assert_never(never)
    sums = [fit.bias + vector for vector in fit.categories]
    match recipe.vectors:
        case Learned():
            return PerCategory(_read(published, recipe.reading), "tuned", _adds(sums, recipe.place))
        case RandomFiring():
            return RandomCategory(_adds(sums, recipe.place))
        case BiasOnly():
            return Drawn(_adds([fit.bias], recipe.place))
        case NormOne():
            (norm,) = fit.bias.norms.values()
            drawn = _random([fit.bias * (1 / norm)], N_RANDOM, seed)
            return Drawn(_adds([fit.bias + vector for vector in drawn], recipe.place))
        case NormMatched():
            drawn = _random(fit.categories, N_RANDOM, seed)
            return Drawn(_adds([fit.bias + vector for vector in drawn], recipe.place))
        case AllRandom():
            return Drawn(_adds(_random(sums, N_RANDOM, seed), recipe.place))
        case never:
            assert_never(never)


def _scaled_table(published: PublishedHybrids, recipe: P2, seed: int) -> VectorTable:
    learned = published.scaled.categories
    frequency_matched = isinstance(recipe.vectors, NormMatched)
    vectors = _random(learned, len(learned), seed) if frequency_matched else learned
    edits = tuple(map(AddScaled, vectors, published.scaled.coefficients))
    match recipe.vectors:
        case Learned() | NormMatched():
            return PerCategory(_read(published, recipe.reading), "tuned", edits)
        case RandomFiring():
            return RandomCategory(edits)
        case never:
            assert_never(never)


def _random(vectors: Sequence[SteeringVector], n: int, seed: int) -> tuple[SteeringVector, ...]:
    """`n` random directions, as long as each of `vectors` in turn."""
    return tuple(
        random_like(vectors[draw % len(vectors)], torch_generator(seed, "rival's random vector", draw))
        for draw in range(n)
    )


def _read(published: PublishedHybrids, reading: CategoryReading) -> Taxonomy:
    match reading:
        case Normalised():
            return published.taxonomy
        case Raw():
            return raw_taxonomy(published.taxonomy, published.stream_norm)
        case never:
            assert_never(never)


def _adds(vectors: Sequence[SteeringVector], place: Place) -> tuple[Add, ...]:
    match place:
        case FittedSite():
            return tuple(map(Add, vectors))
        case OffByOne():
            return tuple(Add(at_output(vector)) for vector in vectors)
        case never:
            assert_never(never)
