"""taxonomy_file: a taxonomy as one safetensors file, with all that describes it in the header."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.errors import LabError, StorageError
from lab.provenance import Provenance, canonical_json
from lab.tables import replacing
from probes.site import Site
from probes.taxonomy.taxonomy import Taxonomy

FORMAT = "elicitation-lab.taxonomy.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "taxonomy"


def save_taxonomy(path: Path, taxonomy: Taxonomy, made_by: Provenance) -> None:
    """Writes `taxonomy` whole or not at all; equal work gives equal bytes."""
    described = {
        "format": FORMAT,
        "site": str(taxonomy.site),
        "k": taxonomy.k,
        "names": taxonomy.names,
        "model": taxonomy.model,
        "model_digest": taxonomy.model_digest,
        "provenance": made_by,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in taxonomy.tensors.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER: canonical_json(described)})


def load_taxonomy(path: Path) -> Taxonomy:
    """The inverse of `save_taxonomy`, on the CPU; StorageError for a file that is missing, damaged or no taxonomy."""
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") == FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                _require_shapes(tensors)
                return Taxonomy(
                    site=Site.parse(described["site"]),
                    k=described["k"],
                    names=tuple(described["names"]),
                    model=described["model"],
                    model_digest=described["model_digest"],
                    **tensors,
                )
    except (OSError, SafetensorError, LabError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"cannot read a taxonomy from {path}: {error}; name another, or fit it again") from error
    raise StorageError(f"{path} is not a taxonomy: its format is {described.get('format')!r}, want {FORMAT!r}")


def _require_shapes(tensors: dict[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    n, d_model = shapes["W_dec"]
    wanted = {"mean": (d_model,), "W_enc": (d_model, n), "b_enc": (n,), "W_dec": (n, d_model), "b_dec": (d_model,)}
    if shapes != wanted:
        raise ValueError(f"its tensors are {shapes}, want {wanted}")
