"""Rivals: both rival methods, fitted to one pair."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.records.errors import LabError, StorageError, VectorError
from lab.records.provenance import Provenance, canonical_json
from lab.records.tables import replacing
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy, load_taxonomy, save_taxonomy
from steering.change import Coefficient
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
class PublishedHybrids:
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


FORMAT = "elicitation-lab.rivals.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "published_hybrids"
VECTORS, TAXONOMY = "rivals.safetensors", "taxonomy.safetensors"


def save_published(directory: Path, published: PublishedHybrids, made_by: Provenance) -> None:
    """Writes both files into `directory`, each whole or not at all; equal work gives equal bytes."""
    save_taxonomy(directory / TAXONOMY, published.taxonomy, made_by)
    vectors = _named(published)
    network = published.scaled.coefficients
    tensors = {name: direction for name, vector in vectors.items() for direction in vector.directions.values()}
    tensors |= {"scaled/W_in": network[0].W_in, "scaled/b_in": network[0].b_in}
    for category, coefficient in enumerate(network):
        tensors |= {f"scaled/w_out/{category}": coefficient.w_out, f"scaled/b_out/{category}": coefficient.b_out}
    described = {
        "format": FORMAT,
        "n_categories": published.taxonomy.n_categories,
        "stream_norm": published.stream_norm,
        "vectors": {
            name: {
                "site": str(site),
                "residual_norm": _or_none(vector.residual_norms[site]),
                "description": vector.description,
            }
            for name, vector in vectors.items()
            for site in vector.sites
        },
        "provenance": made_by,
    }
    with replacing(directory / VECTORS) as temporary:
        # Copies: safetensors refuses tensors that share memory.
        copied = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copied, temporary, metadata={HEADER: canonical_json(described)})


def load_published(directory: Path) -> PublishedHybrids:
    """The inverse of `save_published`, on the CPU; StorageError for a file that is missing, damaged or no such file."""
    path = directory / VECTORS
    taxonomy = load_taxonomy(directory / TAXONOMY)
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") == FORMAT:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                vectors = {name: _vector(tensors[name], **facts) for name, facts in described["vectors"].items()}
                n = described["n_categories"]
                return PublishedHybrids(
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


def _named(published: PublishedHybrids) -> dict[str, SteeringVector]:
    named: dict[str, SteeringVector] = {}
    for name, fit in (("all-tokens", published.on_all_tokens), ("disagreements", published.on_disagreements)):
        named[f"{name}/bias"] = fit.bias
        named |= {f"{name}/{category}": vector for category, vector in enumerate(fit.categories)}
    return named | {f"scaled/{category}": vector for category, vector in enumerate(published.scaled.categories)}


def _constant(vectors: dict[str, SteeringVector], name: str, n_categories: int) -> ConstantVectors:
    return ConstantVectors(
        bias=vectors[f"{name}/bias"],
        categories=tuple(vectors[f"{name}/{category}"] for category in range(n_categories)),
    )


def _vector(
    direction: Float[Tensor, " d_model"], site: str, residual_norm: float | None, description: str
) -> SteeringVector:
    place = Site.parse(site)
    return SteeringVector(
        {place: direction}, {place: math.nan if residual_norm is None else residual_norm}, description
    )


def _or_none(number: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(number) else number
