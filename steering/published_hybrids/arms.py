"""rival_arms: both rivals, each with one fault mended or its vectors replaced, as arms of a ladder."""

from dataclasses import dataclass, replace

from steering.hybrid.hybrid import Hybrid
from steering.hybrid.routers import AtRandom
from steering.hybrid.sweep import FirstChooser, RandomChooser
from steering.published_hybrids.hybrid_of import hybrid_of
from steering.published_hybrids.published_hybrids import PublishedHybrids
from steering.published_hybrids.recipe import (
    P1,
    P2,
    AllRandom,
    BiasOnly,
    Disagreements,
    FittedSite,
    Normalised,
    NormMatched,
    NormOne,
    RandomFiring,
    Raw,
    Recipe,
)

MENDED = P1(
    chooser=FirstChooser(),
    doses=(1.0,),
    windows=(1,),
    fitted_on=Disagreements(),
    place=FittedSite(),
    reading=Normalised(),
)
"""The first rival with every fault mended: one candidate, where it was fitted, at the last position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RivalArm:
    """One arm; all are decoded greedily, as published."""

    name: str
    label: str
    hybrid: Hybrid
    control_of: str | None = None
    """The arm that it is a control of; None for an arm that stands for itself."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An arm before anything is fitted."""

    name: str
    label: str
    recipe: Recipe
    control_of: str | None = None


LISTED = (
    Listed("p1", "P1, as published", P1()),
    Listed("p1-first", "P1, full dose, nobody chooses", P1(chooser=FirstChooser())),
    Listed("p1-random-choice", "P1, a random candidate", P1(chooser=RandomChooser()), "p1"),
    Listed("p1-disagreements", "P1, fitted on disagreements", P1(fitted_on=Disagreements())),
    Listed("p1-site", "P1, at the site of the fit", P1(place=FittedSite())),
    Listed("p1-last", "P1, at the last position only", P1(windows=(1,))),
    Listed("p1-normalised", "P1, categories read as fitted", P1(reading=Normalised())),
    Listed("p1-bias", "P1, bias only", P1(vectors=BiasOnly()), "p1"),
    Listed("p1-firing", "P1, random categories", P1(vectors=RandomFiring()), "p1"),
    Listed("p1-norm-one", "P1, random vectors of norm 1", P1(vectors=NormOne()), "p1"),
    Listed("p1-norm-matched", "P1, random vectors, norm-matched", P1(vectors=NormMatched()), "p1"),
    Listed("p1-all-random", "P1, random bias and vectors", P1(vectors=AllRandom()), "p1"),
    Listed("p1-mended", "P1, all faults mended", MENDED),
    Listed("p1-mended-bias", "P1, all faults mended, bias only", replace(MENDED, vectors=BiasOnly()), "p1-mended"),
    Listed("p1-mended-random", "P1, all faults mended, all random", replace(MENDED, vectors=AllRandom()), "p1-mended"),
    Listed("p2", "P2, as published", P2()),
    Listed("p2-raw", "P2, categories read raw", P2(reading=Raw())),
    Listed("p2-firing", "P2, random categories", P2(vectors=RandomFiring()), "p2"),
    Listed("p2-norm-matched", "P2, random vectors, norm-matched", P2(vectors=NormMatched()), "p2"),
)
"""Every control stands behind what it controls."""


def published_arms(published: PublishedHybrids, *, seed: int) -> tuple[RivalArm, ...]:
    """The arms of both rivals; `seed` decides random vectors."""
    return tuple(
        RivalArm(
            name=listed.name,
            label=listed.label,
            hybrid=hybrid_of(published, listed.recipe, seed=seed),
            control_of=listed.control_of,
        )
        for listed in LISTED
    )


def scattered_rival(published: PublishedHybrids, rate: float, *, seed: int) -> RivalArm:
    """The second rival at random tokens, as often as it steered when it ran: what its gate adds."""
    recipe = P2(router=AtRandom(rate))
    return RivalArm(
        name="p2-scattered",
        label="P2, random tokens",
        hybrid=hybrid_of(published, recipe, seed=seed),
        control_of="p2",
    )
