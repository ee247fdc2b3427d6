"""Steering vectors as safetensors, with all that describes them in the header."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.errors import LabError, VectorError
from lab.provenance import Provenance, canonical_json
from lab.tables import replacing
from probes.site import Site
from steering.vector import SteeringVector

FORMAT = "elicitation-lab.steering-vector.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "steering_vector"


def save_vector(path: Path, vector: SteeringVector, made_by: Provenance) -> None:
    """Writes `vector` whole or not at all: one fp32 tensor a site, named as the site. Equal work gives equal bytes."""
    described = {
        "format": FORMAT,
        "how": vector.how,
        "residual_norms": {str(site): vector.residual_norms[site] for site in vector.sites},
        "provenance": made_by,
    }
    with replacing(path) as temporary:
        save_file(
            {str(site): direction.contiguous() for site, direction in vector.directions.items()},
            temporary,
            metadata={HEADER: canonical_json(described)},
        )


def load_vector(path: Path) -> SteeringVector:
    """The inverse of `save_vector`; VectorError for a file that is missing, truncated or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") == FORMAT:
                directions = {Site.parse(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                norms = {Site.parse(name): norm for name, norm in described["residual_norms"].items()}
                return SteeringVector(directions, norms, described["how"])
    except (OSError, SafetensorError, LabError, ValueError, KeyError, AttributeError) as error:
        raise VectorError(f"cannot read a steering vector from {path}: {error}") from error
    raise VectorError(f"{path} is not a steering vector: its format is {described.get('format')!r}, want {FORMAT!r}")
