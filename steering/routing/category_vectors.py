"""CategoryVectors: a vector for each kind of moment, fitted on the disagreements of that kind."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add
from steering.fits.examples import Disagreements, chosen
from steering.fits.gradient import Category, GradientFit, fit_gradients
from steering.hybrid.vector_table import Drawn, PerCategory, RandomCategory
from steering.vector import SteeringVector, random_like


@dataclass(frozen=True, kw_only=True, slots=True)
class CategoryVectors:
    """A vector for each category of a taxonomy; a category with too few disagreements has a vector of zeros."""

    taxonomy: Taxonomy
    reader: Literal["base", "tuned"]
    """Whose stream the taxonomy reads. The vectors are the base model's in either case."""
    vectors: tuple[SteeringVector, ...]
    """In the order of the taxonomy's categories."""
    n_disagreements: tuple[int, ...]
    """How many each category has, also where they were too few to fit a vector on."""

    def __post_init__(self) -> None:
        n = self.taxonomy.n_categories
        if not len(self.vectors) == len(self.n_disagreements) == n:
            raise VectorError(
                f"{len(self.vectors)} vectors and {len(self.n_disagreements)} counts of disagreements for a taxonomy "
                f"of {n} categories: want one each"
            )

    @property
    def fitted(self) -> tuple[int, ...]:
        """The categories whose vector is not zero."""
        return tuple(index for index, vector in enumerate(self.vectors) if any(vector.norms.values()))

    @property
    def table(self) -> PerCategory:
        """What a hybrid looks vectors up in."""
        return PerCategory(self.taxonomy, self.reader, tuple(map(Add, self.vectors)))


def fit_category_vectors(
    base: Model,
    site: Site,
    taxonomy: Taxonomy,
    reader: Literal["base", "tuned"],
    streams: Float[Tensor, "disagreement d_model"],
    disagreements: Disagreements,
    fit: GradientFit,
    *,
    min_disagreements: int,
    seed: int,
) -> CategoryVectors:
    """Vectors at `site` of `base`, all in one loop; each is as if it were fitted alone.

    `streams` are what the reader has, where the taxonomy reads it, at the last token of the context of each
    disagreement: they say which category it belongs to. A category of fewer than `min_disagreements` disagreements, 1
    or more, is not steered: its vector is zero and says so. Raises VectorError where a loss is not finite, or where
    streams and disagreements differ in number.
    """
    if len(streams) != len(disagreements.targets):
        raise VectorError(f"{len(streams)} streams of {len(disagreements.targets)} disagreements: want one each")
    categories = taxonomy.category(streams)
    counts = dict(zip(taxonomy.names, categories.bincount(minlength=taxonomy.n_categories).tolist(), strict=True))
    table = {
        name: Category(
            examples=chosen(disagreements, (categories == index).nonzero()[:, 0]),
            generator=torch_generator(seed, reader, "category", index),
            description=f"gradient on {counts[name]} tokens where the {reader} model's stream is in category {name!r}",
        )
        for index, name in enumerate(taxonomy.names)
        if counts[name] >= min_disagreements
    }
    fitted = fit_gradients(base, site, table, fit) if table else {}
    return CategoryVectors(
        taxonomy=taxonomy,
        reader=reader,
        vectors=tuple(fitted.get(name) or _nothing(base, site, name, count) for name, count in counts.items()),
        n_disagreements=tuple(counts.values()),
    )


def _nothing(base: Model, site: Site, name: str, n_disagreements: int) -> SteeringVector:
    zero = torch.zeros(base.anatomy.d_model)
    return SteeringVector(
        {site: zero}, {site: np.nan}, f"none: {n_disagreements} disagreements in category {name!r}, too few"
    )


def exchanged(found: CategoryVectors, generator: torch.Generator) -> PerCategory:
    """The fitted vectors passed on in a ring, in a random order: each category that has one gets another's.

    The zero vectors stay where they are: to move these as well would be to compare with no edit where disagreements
    fall in few categories. Raises VectorError where fewer than two categories have a vector.
    """
    if len(found.fitted) < 2:
        raise VectorError(
            f"{len(found.fitted)} of {found.taxonomy.n_categories} categories have a vector, which leaves nothing to "
            "exchange: want two; draw more fitting traces or lower min_disagreements"
        )
    order = [found.fitted[index] for index in torch.randperm(len(found.fitted), generator=generator).tolist()]
    edits = list(found.table.edits)
    for index, other in zip(order, [*order[1:], order[0]], strict=True):
        edits[index] = Add(found.vectors[other])
    return replace(found.table, edits=tuple(edits))


def any_category(found: CategoryVectors) -> RandomCategory:
    """One of the fitted vectors at random for each token. Raises VectorError where there is none."""
    return RandomCategory(tuple(Add(found.vectors[index]) for index in found.fitted))


def random_vectors(found: CategoryVectors, n_draws: int, *, seed: int) -> Drawn:
    """Random directions, each with the norm of a fitted vector drawn as often as its category has disagreements.

    Raises VectorError where no category has a vector.
    """
    counts = torch.tensor([found.n_disagreements[index] for index in found.fitted], dtype=torch.float64)
    if not len(counts):
        raise VectorError("no category has a vector that a random one could be as long as: draw more fitting traces")
    drawn = torch.multinomial(counts, n_draws, replacement=True, generator=torch_generator(seed, "categories"))
    return Drawn(
        tuple(
            Add(random_like(found.vectors[found.fitted[place]], torch_generator(seed, "random vector", draw)))
            for draw, place in enumerate(drawn.tolist())
        )
    )
