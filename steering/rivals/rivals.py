"""Rivals: both rival methods, fitted to one pair."""

from dataclasses import dataclass

from lab.errors import VectorError
from probes.taxonomy.taxonomy import Taxonomy
from steering.coefficient import Coefficient
from steering.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class ConstantVectors:
    """What the first rival adds: the bias and, on top of it, the vector of a category, all at one site."""

    bias: SteeringVector
    categories: tuple[SteeringVector, ...]
    """In the order of the taxonomy; zero for a category without a segment to fit on."""

    def __post_init__(self) -> None:
        if len({vector.sites for vector in (self.bias, *self.categories)}) != 1 or len(self.bias.sites) != 1:
            raise VectorError("the first rival's bias and vectors lie at several sites: want one site for all")


@dataclass(frozen=True, slots=True)
class ScaledVectors:
    """What the second rival adds: the vector of a category, as long as its coefficient says."""

    categories: tuple[SteeringVector, ...]
    """In the order of the taxonomy; zero for a category without a token to fit on."""
    coefficients: tuple[Coefficient, ...]
    """One for each category; they share a hidden layer."""

    def __post_init__(self) -> None:
        if len(self.categories) != len(self.coefficients):
            raise VectorError(
                f"{len(self.categories)} vectors and {len(self.coefficients)} coefficients: want one each"
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Rivals:
    """All that the arms of both rivals are made of."""

    taxonomy: Taxonomy
    """Of the tuned model's stream."""
    stream_norm: float
    """Mean norm of the tuned model's stream where it decides otherwise than the base, at the taxonomy's site."""
    on_all_tokens: ConstantVectors
    on_disagreements: ConstantVectors
    scaled: ScaledVectors

    def __post_init__(self) -> None:
        counts = {len(fit.categories) for fit in (self.on_all_tokens, self.on_disagreements, self.scaled)}
        if counts != {self.taxonomy.n_categories}:
            raise VectorError(
                f"vectors for {sorted(counts)} categories, and a taxonomy of {self.taxonomy.n_categories}: want as "
                "many of each"
            )
