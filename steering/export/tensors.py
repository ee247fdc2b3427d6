"""Steering vectors as safetensors, with all that describes them in the header."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.errors import VectorError
from lab.provenance import Provenance
from lab.tables import replacing
from probes.site import Site
from steering.vector import SteeringVector

FORMAT = "elicitation-lab.steering-vector.1"


def save_vector(path: Path, vector: SteeringVector, made_by: Provenance) -> None:
    """Writes `vector` whole or not at all: one fp32 tensor a site, named as the site."""
    described = {
        "format": FORMAT,
        "how": vector.how,
        "residual_norms": json.dumps({str(site): vector.residual_norms[site] for site in vector.sites}),
        "provenance": made_by.to_json(),
    }
    with replacing(path) as temporary:
        save_file(
            {str(site): direction.contiguous() for site, direction in vector.directions.items()},
            temporary,
            metadata=described,
        )


def load_vector(path: Path) -> SteeringVector:
    """The inverse of `save_vector`; VectorError for a file that is missing, truncated or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise VectorError(
                    f"{path} is not a steering vector: its format is {metadata.get('format')!r}, want {FORMAT!r}"
                )
            directions = {Site.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise VectorError(f"cannot read a steering vector from {path}: {error}") from error
    norms = {Site.parse(name): norm for name, norm in json.loads(metadata["residual_norms"]).items()}
    return SteeringVector(directions, norms, metadata["how"])
