"""rivals_file: fitted rivals as two files of one directory, the vectors and the taxonomy that sorts them."""

import json
import math
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.errors import LabError, StorageError
from lab.provenance import Provenance, canonical_json
from lab.tables import replacing
from probes.site import Site
from probes.taxonomy.taxonomy_file import load_taxonomy, save_taxonomy
from steering.coefficient import Coefficient
from steering.rivals.rivals import ConstantVectors, Rivals, ScaledVectors
from steering.vector import SteeringVector

FORMAT = "elicitation-lab.rivals.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "rivals"
VECTORS, TAXONOMY = "rivals.safetensors", "taxonomy.safetensors"


def save_rivals(directory: Path, rivals: Rivals, made_by: Provenance) -> None:
    """Writes both files into `directory`, each whole or not at all; equal work gives equal bytes."""
    save_taxonomy(directory / TAXONOMY, rivals.taxonomy, made_by)
    vectors = _named(rivals)
    network = rivals.scaled.coefficients
    tensors = {name: direction for name, vector in vectors.items() for direction in vector.directions.values()}
    tensors |= {"scaled/W_in": network[0].W_in, "scaled/b_in": network[0].b_in}
    for category, coefficient in enumerate(network):
        tensors |= {f"scaled/w_out/{category}": coefficient.w_out, f"scaled/b_out/{category}": coefficient.b_out}
    described = {
        "format": FORMAT,
        "n_categories": rivals.taxonomy.n_categories,
        "stream_norm": rivals.stream_norm,
        "vectors": {
            name: {"site": str(site), "residual_norm": _or_none(vector.residual_norms[site]), "how": vector.how}
            for name, vector in vectors.items()
            for site in vector.sites
        },
        "provenance": made_by,
    }
    with replacing(directory / VECTORS) as temporary:
        # Copies: safetensors refuses tensors that share memory.
        copied = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copied, temporary, metadata={HEADER: canonical_json(described)})


def load_rivals(directory: Path) -> Rivals:
    """The inverse of `save_rivals`, on the CPU; StorageError for a file that is missing, damaged or no such file."""
    path = directory / VECTORS
    taxonomy = load_taxonomy(directory / TAXONOMY)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") == FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                vectors = {name: _vector(tensors[name], **facts) for name, facts in described["vectors"].items()}
                n = described["n_categories"]
                return Rivals(
                    taxonomy=taxonomy,
                    stream_norm=described["stream_norm"],
                    on_all_tokens=_constant(vectors, "all-tokens", n),
                    on_disagreements=_constant(vectors, "disagreements", n),
                    scaled=ScaledVectors(
                        categories=tuple(vectors[f"scaled/{category}"] for category in range(n)),
                        coefficients=tuple(
                            Coefficient(
                                W_in=tensors["scaled/W_in"],
                                b_in=tensors["scaled/b_in"],
                                w_out=tensors[f"scaled/w_out/{category}"],
                                b_out=tensors[f"scaled/b_out/{category}"],
                            )
                            for category in range(n)
                        ),
                    ),
                )
    except (OSError, SafetensorError, LabError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"cannot read rivals from {path}: {error}; name another directory, or fit them again") from (
            error
        )
    raise StorageError(f"{path} holds no rivals: its format is {described.get('format')!r}, want {FORMAT!r}")


def _named(rivals: Rivals) -> dict[str, SteeringVector]:
    named: dict[str, SteeringVector] = {}
    for name, fit in (("all-tokens", rivals.on_all_tokens), ("disagreements", rivals.on_disagreements)):
        named[f"{name}/bias"] = fit.bias
        named |= {f"{name}/{category}": vector for category, vector in enumerate(fit.categories)}
    return named | {f"scaled/{category}": vector for category, vector in enumerate(rivals.scaled.categories)}


def _constant(vectors: dict[str, SteeringVector], name: str, n_categories: int) -> ConstantVectors:
    return ConstantVectors(
        bias=vectors[f"{name}/bias"],
        categories=tuple(vectors[f"{name}/{category}"] for category in range(n_categories)),
    )


def _vector(direction: Float[Tensor, " d_model"], site: str, residual_norm: float | None, how: str) -> SteeringVector:
    place = Site.parse(site)
    return SteeringVector({place: direction}, {place: math.nan if residual_norm is None else residual_norm}, how)


def _or_none(number: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(number) else number
