"""PublishedHybrids: all that was fitted for both published methods on one pair, and its two files."""

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Literal, TypeAlias

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.records.errors import LabError, StorageError, VectorError
from lab.records.provenance import Provenance, canonical_json
from lab.records.tables import replacing
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy, load_taxonomy, save_taxonomy
from steering.hybrid.hybrid import Router
from steering.hybrid.interventions import Chooser, TunedChooser
from steering.hybrid.routers import Disagreement
from steering.published_hybrids.material import Descent
from steering.vector import Coefficient, SteeringVector


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
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if described.get("format") != FORMAT:
                raise StorageError(f"its format is {described.get('format')!r}, want {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        vectors: dict[str, SteeringVector] = {}
        for name, (place, norm, description) in described["vectors"].items():
            site = Site.parse(place)
            residual_norm = math.nan if norm is None else norm
            vectors[name] = SteeringVector({site: tensors[name]}, {site: residual_norm}, description)
        categories = range(described["n_categories"])

        def of(fit: str) -> tuple[SteeringVector, ...]:
            return tuple(vectors[f"{fit}/{category}"] for category in categories)

        coefficients = tuple(
            Coefficient(
                W_in=tensors["scaled/W_in"],
                b_in=tensors["scaled/b_in"],
                w_out=tensors[f"scaled/w_out/{category}"],
                b_out=tensors[f"scaled/b_out/{category}"],
            )
            for category in categories
        )
        return PublishedHybrids(
            taxonomy=taxonomy,
            stream_norm=described["stream_norm"],
            on_all_tokens=ConstantVectors(vectors["all-tokens/bias"], of("all-tokens")),
            on_disagreements=ConstantVectors(vectors["disagreements/bias"], of("disagreements")),
            scaled=ScaledVectors(of("scaled"), coefficients),
        )
    except (OSError, SafetensorError, LabError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"cannot read published hybrids from {path}: {error}; name another directory, or fit them again"
        ) from error


def _named(published: PublishedHybrids) -> dict[str, SteeringVector]:
    named = {"all-tokens/bias": published.on_all_tokens.bias, "disagreements/bias": published.on_disagreements.bias}
    for fit, found in (
        ("all-tokens", published.on_all_tokens),
        ("disagreements", published.on_disagreements),
        ("scaled", published.scaled),
    ):
        named |= {f"{fit}/{category}": vector for category, vector in enumerate(found.categories)}
    return named


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
