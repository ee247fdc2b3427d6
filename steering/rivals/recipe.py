"""Recipe: a rival's method, each of its doubtful choices a value that can be replaced by the other one."""

from dataclasses import dataclass, field
from typing import TypeAlias

from steering.hybrid.act import Chooser, TunedChooser
from steering.hybrid.router import Disagreement, Router

DOSES = tuple(dose / 10 for dose in range(10, 0, -1))
"""1.0 down to 0.1, as published; the full dose comes first."""
WINDOWS = (None, 1, 4, 12, 24)
"""The whole text and the last tokens of it; published for texts of a thousand tokens: all, 1, 15, 50, 100."""


@dataclass(frozen=True, slots=True)
class AllTokens:
    """The loss is the mean over all tokens of the tuned model's texts, most of which the base would write anyway."""


@dataclass(frozen=True, slots=True)
class Disagreements:
    """The loss is the mean over the tokens that the base model would not have written greedily."""


FittedOn: TypeAlias = AllTokens | Disagreements
"""Which tokens of the texts are targets of the fit."""


@dataclass(frozen=True, slots=True)
class FittedSite:
    """Vectors act where they were fitted: at the input of block L."""


@dataclass(frozen=True, slots=True)
class OffByOne:
    """Vectors act one block above where they were fitted: at the output of block L."""


Place: TypeAlias = FittedSite | OffByOne


@dataclass(frozen=True, slots=True)
class Normalised:
    """The category is read from the stream centred and normalised, as the taxonomy was fitted."""


@dataclass(frozen=True, slots=True)
class Raw:
    """The category is read from the stream as it is, which the taxonomy has never seen."""


CategoryReading: TypeAlias = Normalised | Raw


@dataclass(frozen=True, slots=True)
class Learned:
    """The vectors that were fitted."""


@dataclass(frozen=True, slots=True)
class BiasOnly:
    """The bias alone."""


@dataclass(frozen=True, slots=True)
class RandomFiring:
    """The vector of a category that is drawn for each token."""


@dataclass(frozen=True, slots=True)
class NormOne:
    """The bias, and random directions of norm 1 in place of the categories' vectors: as published."""


@dataclass(frozen=True, slots=True)
class NormMatched:
    """Random directions in place of the categories' vectors, as long as they are; a bias stays."""


@dataclass(frozen=True, slots=True)
class AllRandom:
    """Random directions as long as the sums of bias and vector, with nothing learned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class P1:
    """A bias and a vector for each category; candidates by dose and window; the tuned model routes and chooses.

    The first published method (arXiv:2510.07364 v1 to v3). Defaults are its choices.
    """

    router: Router = field(default_factory=Disagreement)
    chooser: Chooser = field(default_factory=TunedChooser)
    doses: tuple[float, ...] = DOSES
    windows: tuple[int | None, ...] = WINDOWS
    fitted_on: FittedOn = AllTokens()
    place: Place = OffByOne()
    reading: CategoryReading = Raw()
    vectors: Learned | BiasOnly | RandomFiring | NormOne | NormMatched | AllRandom = Learned()


@dataclass(frozen=True, kw_only=True, slots=True)
class P2:
    """A vector for each category, as long as a coefficient network says; the tuned model routes; nobody chooses.

    The second published method, of 2026. Defaults are its choices.
    """

    router: Router = field(default_factory=Disagreement)
    reading: CategoryReading = Normalised()
    vectors: Learned | RandomFiring | NormMatched = Learned()


Recipe: TypeAlias = P1 | P2
