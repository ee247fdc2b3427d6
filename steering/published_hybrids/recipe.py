"""Recipe: a published method of hybrid steering, each of its doubtful choices a value that can be replaced."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, TypeAlias

from lab.records.errors import VectorError
from steering.hybrid.hybrid import Router
from steering.hybrid.routers import Disagreement
from steering.hybrid.sweep import Chooser, TunedChooser
from steering.published_hybrids.material import Descent

DOSES = tuple(dose / 10 for dose in range(10, 0, -1))
"""1.0 down to 0.1, as published; the full dose comes first."""
WINDOWS = (None, 1, 4, 12, 24)
"""The whole text and the last tokens of it; published for texts of a thousand tokens: all, 1, 15, 50, 100."""


class FittedOn(Enum):
    """Which tokens of the tuned model's texts are targets of the fit, over which the loss is the mean."""

    ALL_TOKENS = "all-tokens"
    """All, most of which the base would write anyway."""
    DISAGREEMENTS = "disagreements"
    """Those that the base model would not have written greedily."""


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


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSettings:
    """How much each fit sees, and for how long: by default what a model of a few blocks needs on a CPU.

    The published sizes stand behind each field.
    """

    depth: float = 0.375
    """Block that the vectors act at, as a share of all; published: 10 of 28, 12 of 32, 18 of 48, 24 of 64."""
    n_categories: int = 6
    """Published: 5 to 50, chosen by a language model's marks."""
    n_traces: int = 128
    """Traces that the bias is fitted on, at most; published: 2048."""
    n_segments: int = 48
    """Segments that a category's vector is fitted on, at most; published: 2048."""
    n_disagreements: int = 2048
    """Positions that P2 is fitted on, at most; published: 64 in each of 9800 traces."""
    d_hidden: int = 64
    """Of the coefficient network; published: 512."""
    bias: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10))
    """Published: 50 epochs in batches of 1 to 4, rate 1e-2, patience 10."""
    categories: Descent = field(
        default_factory=lambda: Descent(n_epochs=10, batch_size=16, learning_rate=0.1, patience=10)
    )
    """As for the bias."""
    scaled: Descent = field(default_factory=lambda: Descent(n_epochs=10, batch_size=64, learning_rate=0.1, patience=5))
    """Of vectors and coefficients together; published: 10 epochs, rate 1e-2, patience 5."""

    def __post_init__(self) -> None:
        names = ("n_categories", "n_traces", "n_segments", "n_disagreements", "d_hidden")
        if low := {name: count for name in names if (count := getattr(self, name)) < 1}:
            raise VectorError(f"{', '.join(f'{name} = {count}' for name, count in low.items())}: want at least 1")
        if not 0 <= self.depth < 1:
            raise VectorError(f"a depth of {self.depth:g}: want a share of the blocks, from 0 to below 1")

    def layer(self, n_layers: int) -> int:
        """The block that the vectors act at, in a network of `n_layers`."""
        return min(round(self.depth * n_layers), n_layers - 1)
