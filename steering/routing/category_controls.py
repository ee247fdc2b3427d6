"""category_controls: tables of vectors that leave out one thing that a table of category vectors has."""

from dataclasses import replace

import torch

from lab.errors import VectorError
from lab.seeds import torch_generator
from steering.edit import Add
from steering.fit.random import random_like
from steering.hybrid.vector_table import Drawn, PerCategory, RandomCategory
from steering.routing.category_vectors import CategoryVectors


def exchanged(found: CategoryVectors, generator: torch.Generator) -> PerCategory:
    """The fitted vectors passed on in a ring, in a random order: each category that has one gets another's.

    The zero vectors stay where they are: to move these as well would be to compare with no edit where decisions fall in
    few categories. Raises VectorError where fewer than two categories have
    a vector.
    """
    if len(found.fitted) < 2:
        raise VectorError(
            f"{len(found.fitted)} of {found.taxonomy.n_categories} categories have a vector, which leaves nothing to "
            "exchange: want two; draw more fitting traces or lower min_decisions"
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
    """Random directions, each with the norm of a fitted vector that is drawn as often as its category has decisions.

    Raises VectorError where no category has a vector.
    """
    counts = torch.tensor([found.n_decisions[index] for index in found.fitted], dtype=torch.float64)
    if not len(counts):
        raise VectorError("no category has a vector that a random one could be as long as: draw more fitting traces")
    drawn = torch.multinomial(counts, n_draws, replacement=True, generator=torch_generator(seed, "categories"))
    return Drawn(
        tuple(
            Add(random_like(found.vectors[found.fitted[place]], torch_generator(seed, "random vector", draw)))
            for draw, place in enumerate(drawn.tolist())
        )
    )
