"""rival_arms: both rivals, each with one fault mended or its vectors replaced, as arms of a ladder."""

from dataclasses import dataclass, replace

from lab.scoring.evidence import Control, Role
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

    role: Role
    control: Control | None
    """What it controls for; None for an arm that stands for itself."""
    name: str
    label: str
    hybrid: Hybrid
    control_of: str | None
    """The arm that it is a control of; None for an arm that stands for itself."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An arm before anything is fitted."""

    role: Role
    name: str
    label: str
    recipe: Recipe
    control: Control | None = None
    """None for what stands for itself; else it controls the arm of the same role that does."""


LISTED = (
    Listed(Role.P1, "p1", "P1, as published", P1()),
    Listed(Role.P1_SWITCHED, "p1-first", "P1, full dose, nobody chooses", P1(chooser=FirstChooser())),
    Listed(Role.P1, "p1-random-choice", "P1, a random candidate", P1(chooser=RandomChooser()), Control.RANDOM_CHOICE),
    Listed(Role.P1_SWITCHED, "p1-disagreements", "P1, fitted on disagreements", P1(fitted_on=Disagreements())),
    Listed(Role.P1_SWITCHED, "p1-site", "P1, at the site of the fit", P1(place=FittedSite())),
    Listed(Role.P1_SWITCHED, "p1-last", "P1, at the last position only", P1(windows=(1,))),
    Listed(Role.P1_SWITCHED, "p1-normalised", "P1, categories read as fitted", P1(reading=Normalised())),
    Listed(Role.P1, "p1-bias", "P1, bias only", P1(vectors=BiasOnly()), Control.BIAS_ONLY),
    Listed(Role.P1, "p1-firing", "P1, random categories", P1(vectors=RandomFiring()), Control.RANDOM_CATEGORIES),
    Listed(Role.P1, "p1-norm-one", "P1, random vectors of norm 1", P1(vectors=NormOne()), Control.NORM_ONE),
    Listed(
        Role.P1,
        "p1-norm-matched",
        "P1, random vectors, norm-matched",
        P1(vectors=NormMatched()),
        Control.RANDOM_VECTORS,
    ),
    Listed(Role.P1, "p1-all-random", "P1, random bias and vectors", P1(vectors=AllRandom()), Control.ALL_RANDOM),
    Listed(Role.P1_MENDED, "p1-mended", "P1, all faults mended", MENDED),
    Listed(
        Role.P1_MENDED,
        "p1-mended-bias",
        "P1, all faults mended, bias only",
        replace(MENDED, vectors=BiasOnly()),
        Control.BIAS_ONLY,
    ),
    Listed(
        Role.P1_MENDED,
        "p1-mended-random",
        "P1, all faults mended, all random",
        replace(MENDED, vectors=AllRandom()),
        Control.ALL_RANDOM,
    ),
    Listed(Role.P2, "p2", "P2, as published", P2()),
    Listed(Role.P2_SWITCHED, "p2-raw", "P2, categories read raw", P2(reading=Raw())),
    Listed(Role.P2, "p2-firing", "P2, random categories", P2(vectors=RandomFiring()), Control.RANDOM_CATEGORIES),
    Listed(
        Role.P2,
        "p2-norm-matched",
        "P2, random vectors, norm-matched",
        P2(vectors=NormMatched()),
        Control.RANDOM_VECTORS,
    ),
)
"""Every control stands behind what it controls."""


def published_arms(published: PublishedHybrids, *, seed: int) -> tuple[RivalArm, ...]:
    """The arms of both rivals; `seed` decides random vectors."""
    stands = {listed.role: listed.name for listed in LISTED if listed.control is None}
    return tuple(
        RivalArm(
            role=listed.role,
            control=listed.control,
            name=listed.name,
            label=listed.label,
            hybrid=hybrid_of(published, listed.recipe, seed=seed),
            control_of=None if listed.control is None else stands[listed.role],
        )
        for listed in LISTED
    )


def scattered_rival(published: PublishedHybrids, rate: float, *, seed: int) -> RivalArm:
    """The second rival at random tokens, as often as it steered when it ran: what its gate adds."""
    recipe = P2(router=AtRandom(rate))
    return RivalArm(
        role=Role.P2,
        control=Control.RANDOM_TOKENS,
        name="p2-scattered",
        label="P2, random tokens",
        hybrid=hybrid_of(published, recipe, seed=seed),
        control_of="p2",
    )
