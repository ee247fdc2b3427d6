"""PublishedHybrids: all that was fitted for both published methods on one pair, and its two files."""

import json
import math
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.records.errors import StorageError, VectorError
from lab.records.provenance import Provenance, canonical_json, require_intact
from lab.records.tables import replacing
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy, load_taxonomy, save_taxonomy
from steering.vector import Coefficient, SteeringVector


class FittedOn(Enum):
    """Which tokens of the tuned model's texts are targets of the fit, over which the loss is the mean."""

    ALL_TOKENS = "all-tokens"
    """All, most of which the base would write anyway."""
    DISAGREEMENTS = "disagreements"
    """Those that the base model would not have written greedily."""


@dataclass(frozen=True, slots=True)
class ConstantVectors:
    """What P1 adds: the bias and, on top of it, the vector of a category, all at one site."""

    bias: SteeringVector
    categories: tuple[SteeringVector, ...]
    """In the order of the taxonomy; zero for a category without a segment to fit on."""

    def __post_init__(self) -> None:
        if len({vector.sites for vector in (self.bias, *self.categories)}) != 1 or len(self.bias.sites) != 1:
            raise VectorError("P1's bias and vectors lie at several sites: want one site for all")


@dataclass(frozen=True, slots=True)
class ScaledVectors:
    """What P2 adds: the vector of a category, as long as its coefficient says."""

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
    """All that the arms of both methods are made of."""

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


FORMAT = "elicitation-lab.published-hybrids.1"
# All of the description under one key, because safetensors writes several in an order that changes from run to run.
HEADER = "published_hybrids"
VECTORS, TAXONOMY = "published_hybrids.safetensors", "taxonomy.safetensors"


def save_published(directory: Path, published: PublishedHybrids, made_by: Provenance) -> None:
    """Writes both files into `directory`, each whole or not at all; equal work gives equal bytes."""
    save_taxonomy(directory / TAXONOMY, published.taxonomy, made_by)
    vectors, network = _named(published), published.scaled.coefficients
    tensors = {name: direction for name, vector in vectors.items() for direction in vector.directions.values()}
    tensors |= {"scaled/W_in": network[0].W_in, "scaled/b_in": network[0].b_in}
    for category, coefficient in enumerate(network):
        tensors |= {f"scaled/w_out/{category}": coefficient.w_out, f"scaled/b_out/{category}": coefficient.b_out}
    described = {
        "format": FORMAT,
        "n_categories": published.taxonomy.n_categories,
        "stream_norm": published.stream_norm,
        # JSON has no NaN.
        "vectors": {
            name: [str(site), None if math.isnan(norm) else norm, vector.description]
            for name, vector in vectors.items()
            for site, norm in vector.residual_norms.items()
        },
        "provenance": made_by,
    }
    with replacing(directory / VECTORS) as temporary:
        # Copies: safetensors refuses tensors that share memory.
        copied = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        save_file(copied, temporary, metadata={HEADER: canonical_json(described)})


def load_published(directory: Path) -> PublishedHybrids:
    """The inverse of `save_published`, on the CPU; StorageError for a file that is missing, damaged or no such file."""
    path, taxonomy = directory / VECTORS, load_taxonomy(directory / TAXONOMY)
    try:
        require_intact(path)
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") != FORMAT:
                raise StorageError(f"its format is {described.get('format')!r}, want {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        vectors: dict[str, SteeringVector] = {}
        for name, (place, norm, description) in described["vectors"].items():
            site, norm = Site.parse(place), math.nan if norm is None else norm
            vectors[name] = SteeringVector({site: tensors[name]}, {site: norm}, description)
        categories = range(described["n_categories"])

        def of(fit: str) -> tuple[SteeringVector, ...]:
            return tuple(vectors[f"{fit}/{category}"] for category in categories)

        hidden = {name: tensors[f"scaled/{name}"] for name in ("W_in", "b_in")}
        coefficients = tuple(
            Coefficient(**hidden, w_out=tensors[f"scaled/w_out/{category}"], b_out=tensors[f"scaled/b_out/{category}"])
            for category in categories
        )
        return PublishedHybrids(
            taxonomy=taxonomy,
            stream_norm=described["stream_norm"],
            on_all_tokens=ConstantVectors(vectors["all-tokens/bias"], of("all-tokens")),
            on_disagreements=ConstantVectors(vectors["disagreements/bias"], of("disagreements")),
            scaled=ScaledVectors(of("scaled"), coefficients),
        )
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise StorageError(
            f"cannot read published hybrids from {path}: {error}; name another directory, or fit them again"
        ) from error


def _named(published: PublishedHybrids) -> dict[str, SteeringVector]:
    constant = {"all-tokens": published.on_all_tokens, "disagreements": published.on_disagreements}
    biases = {f"{fit}/bias": found.bias for fit, found in constant.items()}
    return biases | {
        f"{fit}/{category}": vector
        for fit, found in (constant | {"scaled": published.scaled}).items()
        for category, vector in enumerate(found.categories)
    }
