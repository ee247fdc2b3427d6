"""VectorFile: what a file holds, a vector and where it comes from."""

from dataclasses import dataclass

from lab.provenance import Provenance
from steering.export.model_facts import ModelFacts
from steering.vector import SteeringVector


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a vector comes from."""

    made_by: Provenance
    fitted_on: ModelFacts | None = None
    """None where the one who saved it did not say."""
    measured_dose: float | None = None
    """The dose whose effect was measured, in units of the vector; None if none was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorFile:
    """What a file holds: a vector and, unless another program wrote it, where it comes from."""

    vector: SteeringVector
    origin: Origin | None
