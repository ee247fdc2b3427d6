"""Steering vectors as safetensors, with all that describes them in the header: the file that loses nothing."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.records.errors import LabError, VectorError
from lab.records.provenance import Provenance
from lab.records.tables import replacing
from probes.capture.site import Site
from steering.export.vector_file import (
    FORMAT,
    HEADER,
    PICKLE_REASON,
    ModelFacts,
    Origin,
    VectorFile,
    check_fits,
    file_kind,
    header_text,
    read_header,
)
from steering.vector import SteeringVector


def save_vector(
    path: Path,
    vector: SteeringVector,
    made_by: Provenance,
    *,
    fitted_on: ModelFacts | None = None,
    measured_dose: float | None = None,
) -> None:
    """Writes `vector` whole or not at all: one fp32 tensor a site, named as the site. Equal work gives equal bytes.

    `fitted_on` is the model (None if not known), `measured_dose` the dose whose effect was measured, if any was.
    """
    origin = Origin(made_by=made_by, fitted_on=fitted_on, measured_dose=measured_dose)
    with replacing(path) as temporary:
        save_file(
            {str(site): direction.contiguous() for site, direction in vector.directions.items()},
            temporary,
            metadata={HEADER: header_text(vector, origin)},
        )


def load_vector(path: Path, model: ModelFacts | None = None) -> SteeringVector:
    """The vector that `save_vector` wrote; with `model`, checked to fit it.

    Raises VectorError for a file that is missing, truncated, damaged or of another kind, and for a vector of another
    width than the model's; SiteError for a layer that the model has not.
    """
    vector = read_vector(path).vector
    if model is not None:
        check_fits(vector, model)
    return vector


def read_vector(path: Path) -> VectorFile:
    """The inverse of `save_vector`: the vector and its origin. Raises VectorError as `load_vector` does."""
    try:
        if file_kind(path) == "pickle":
            raise VectorError(PICKLE_REASON)
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(HEADER)
            if header is None:
                raise VectorError(f"it has no header {HEADER!r}, want one of format {FORMAT!r}")
            directions = {Site.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        description, norms, origin = read_header(header, directions)
        if other := [
            f"{site} is {tensor.dtype}" for site, tensor in directions.items() if tensor.dtype != torch.float32
        ]:
            raise VectorError(f"{other[0]}, want float32")
        if other := [f"{site} has {tensor.ndim} axes" for site, tensor in directions.items() if tensor.ndim != 1]:
            raise VectorError(f"{other[0]}, want 1")
        return VectorFile(vector=SteeringVector(directions, norms, description), origin=origin)
    except (OSError, SafetensorError, LabError) as error:
        raise VectorError(f"cannot read a steering vector from {path}: {error}") from error
