"""published_arms: both published methods as hybrids, each also with one fault mended or its vectors replaced.

A recipe says what a method does (`P1`, `P2`), `hybrid_of` makes a hybrid of it and of what was fitted, and `LISTED` is
every recipe that has an arm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias, assert_never

import torch

from lab.records.seeds import torch_generator
from lab.scoring.evidence import Control, Role
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add, AddScaled
from steering.hybrid.hybrid import Hybrid, Router
from steering.hybrid.interventions import (
    Chooser,
    Drawn,
    FirstChooser,
    PerCategory,
    RandomCategory,
    RandomChooser,
    Steer,
    Sweep,
    TunedChooser,
    VectorTable,
)
from steering.hybrid.routers import Disagreement
from steering.published_hybrids.published_hybrids import FittedOn, PublishedHybrids
from steering.vector import SteeringVector, random_like

DOSES = tuple(dose / 10 for dose in range(10, 0, -1))
"""1.0 down to 0.1, as published; the full dose comes first."""
WINDOWS = (None, 1, 4, 12, 24)
"""The whole text and the last tokens of it; published for texts of a thousand tokens: all, 1, 15, 50, 100."""


class Place(Enum):
    """Where vectors act that were fitted at the input of block L."""

    FITTED = "at the input of block L"
    OFF_BY_ONE = "one block above, at the output of block L"


class Reading(Enum):
    """How the stream's category is read."""

    NORMALISED = "centred and normalised, as the taxonomy was fitted"
    RAW = "as the stream is, which the taxonomy has never seen"


class Vectors(Enum):
    """What a category adds."""

    LEARNED = "the vectors that were fitted"
    BIAS_ONLY = "the bias alone"
    RANDOM_FIRING = "the vector of a category that is drawn for each token"
    NORM_ONE = "the bias, and random directions of norm 1, as published"
    NORM_MATCHED = "random directions as long as the categories' vectors; a bias stays"
    ALL_RANDOM = "random directions as long as the sums of bias and vector, with nothing learned"


@dataclass(frozen=True, kw_only=True, slots=True)
class P1:
    """A bias and a vector for each category; candidates by dose and window; the tuned model routes and chooses.

    The first published method (arXiv:2510.07364 v1 to v3). Defaults are its choices.
    """

    router: Router = field(default_factory=Disagreement)
    chooser: Chooser = field(default_factory=TunedChooser)
    doses: tuple[float, ...] = DOSES
    windows: tuple[int | None, ...] = WINDOWS
    fitted_on: FittedOn = FittedOn.ALL_TOKENS
    place: Place = Place.OFF_BY_ONE
    reading: Reading = Reading.RAW
    vectors: Vectors = Vectors.LEARNED


@dataclass(frozen=True, kw_only=True, slots=True)
class P2:
    """A vector for each category, as long as a coefficient network says; the tuned model routes; nobody chooses.

    The second published method, of 2026. Defaults are its choices.
    """

    router: Router = field(default_factory=Disagreement)
    reading: Reading = Reading.NORMALISED
    vectors: Literal[Vectors.LEARNED, Vectors.RANDOM_FIRING, Vectors.NORM_MATCHED] = Vectors.LEARNED


Recipe: TypeAlias = P1 | P2

N_RANDOM = 64
"""Random vectors that a control of P1 spreads its rows over."""


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
    fit = published.on_all_tokens if recipe.fitted_on == FittedOn.ALL_TOKENS else published.on_disagreements
    sums = [fit.bias + vector for vector in fit.categories]

    def adds(vectors: Sequence[SteeringVector]) -> tuple[Add, ...]:
        return tuple(map(Add, vectors if recipe.place == Place.FITTED else map(at_output, vectors)))

    match recipe.vectors:
        case Vectors.LEARNED:
            return PerCategory(_read(published, recipe.reading), "tuned", adds(sums))
        case Vectors.RANDOM_FIRING:
            return RandomCategory(adds(sums))
        case Vectors.BIAS_ONLY:
            drawn = [fit.bias]
        case Vectors.NORM_ONE:
            (norm,) = fit.bias.norms.values()
            drawn = [fit.bias + vector for vector in _random([fit.bias * (1 / norm)], N_RANDOM, seed)]
        case Vectors.NORM_MATCHED:
            drawn = [fit.bias + vector for vector in _random(fit.categories, N_RANDOM, seed)]
        case Vectors.ALL_RANDOM:
            drawn = _random(sums, N_RANDOM, seed)
        case never:
            assert_never(never)
    return Drawn(adds(drawn))


def _scaled_table(published: PublishedHybrids, recipe: P2, seed: int) -> VectorTable:
    learned = published.scaled.categories
    vectors = _random(learned, len(learned), seed) if recipe.vectors == Vectors.NORM_MATCHED else learned
    edits = tuple(map(AddScaled, vectors, published.scaled.coefficients))
    if recipe.vectors == Vectors.RANDOM_FIRING:
        return RandomCategory(edits)
    return PerCategory(_read(published, recipe.reading), "tuned", edits)


def _random(vectors: Sequence[SteeringVector], n: int, seed: int) -> tuple[SteeringVector, ...]:
    """`n` random directions, as long as each of `vectors` in turn."""
    return tuple(
        random_like(vectors[draw % len(vectors)], torch_generator(seed, "rival's random vector", draw))
        for draw in range(n)
    )


def _read(published: PublishedHybrids, reading: Reading) -> Taxonomy:
    if reading == Reading.RAW:
        return raw_taxonomy(published.taxonomy, published.stream_norm)
    return published.taxonomy


MENDED = P1(
    chooser=FirstChooser(),
    doses=(1.0,),
    windows=(1,),
    fitted_on=FittedOn.DISAGREEMENTS,
    place=Place.FITTED,
    reading=Reading.NORMALISED,
)
"""P1 with every fault mended: one candidate, where it was fitted, at the last position."""


class Listed(NamedTuple):
    """An arm before anything is fitted; all are decoded greedily, as published."""

    role: Role
    name: str
    label: str
    recipe: Recipe
    control: Control | None = None
    """None for what stands for itself; else it controls the arm of the same role that does."""


_SCALED = P2(vectors=Vectors.NORM_MATCHED)
_BIAS_ONLY, _ALL_RANDOM = replace(MENDED, vectors=Vectors.BIAS_ONLY), replace(MENDED, vectors=Vectors.ALL_RANDOM)
LISTED = (
    Listed(Role.P1, "p1", "P1, as published", P1()),
    Listed(Role.P1_SWITCHED, "p1-first", "P1, full dose, nobody chooses", P1(chooser=FirstChooser())),
    Listed(Role.P1, "p1-random-choice", "P1, a random candidate", P1(chooser=RandomChooser()), Control.RANDOM_CHOICE),
    Listed(Role.P1_SWITCHED, "p1-disagreements", "P1, fitted on disagreements", P1(fitted_on=FittedOn.DISAGREEMENTS)),
    Listed(Role.P1_SWITCHED, "p1-site", "P1, at the site of the fit", P1(place=Place.FITTED)),
    Listed(Role.P1_SWITCHED, "p1-last", "P1, at the last position only", P1(windows=(1,))),
    Listed(Role.P1_SWITCHED, "p1-normalised", "P1, categories read as fitted", P1(reading=Reading.NORMALISED)),
    *(
        Listed(Role.P1, name, f"P1, {label}", P1(vectors=vectors), control)
        for name, label, vectors, control in (
            ("p1-bias", "bias only", Vectors.BIAS_ONLY, Control.BIAS_ONLY),
            ("p1-firing", "random categories", Vectors.RANDOM_FIRING, Control.RANDOM_CATEGORIES),
            ("p1-norm-one", "random vectors of norm 1", Vectors.NORM_ONE, Control.NORM_ONE),
            ("p1-norm-matched", "random vectors, norm-matched", Vectors.NORM_MATCHED, Control.RANDOM_VECTORS),
            ("p1-all-random", "random bias and vectors", Vectors.ALL_RANDOM, Control.ALL_RANDOM),
        )
    ),
    Listed(Role.P1_MENDED, "p1-mended", "P1, all faults mended", MENDED),
    Listed(Role.P1_MENDED, "p1-mended-bias", "P1, all faults mended, bias only", _BIAS_ONLY, Control.BIAS_ONLY),
    Listed(Role.P1_MENDED, "p1-mended-random", "P1, all faults mended, all random", _ALL_RANDOM, Control.ALL_RANDOM),
    Listed(Role.P2, "p2", "P2, as published", P2()),
    Listed(Role.P2_SWITCHED, "p2-raw", "P2, categories read raw", P2(reading=Reading.RAW)),
    Listed(Role.P2, "p2-firing", "P2, random categories", P2(vectors=Vectors.RANDOM_FIRING), Control.RANDOM_CATEGORIES),
    Listed(Role.P2, "p2-norm-matched", "P2, random vectors, norm-matched", _SCALED, Control.RANDOM_VECTORS),
)
"""Every control stands behind what it controls."""


class PublishedArm(NamedTuple):
    """One arm of a pair."""

    listed: Listed
    hybrid: Hybrid
    control_of: str | None
    """The arm that it is a control of; None for an arm that stands for itself."""


def published_arms(published: PublishedHybrids, *, seed: int) -> Iterator[PublishedArm]:
    """The arms of both methods; `seed` decides random vectors."""
    stands = {listed.role: listed.name for listed in LISTED if listed.control is None}
    for listed in LISTED:
        hybrid = hybrid_of(published, listed.recipe, seed=seed)
        yield PublishedArm(listed, hybrid, None if listed.control is None else stands[listed.role])
