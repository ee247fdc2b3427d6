"""VectorTable: which edit a routed row gets."""

from dataclasses import dataclass
from typing import Literal, NewType, TypeAlias

import numpy as np
import torch
from jaxtyping import Int, UInt64
from torch import Tensor

from lab.records.errors import VectorError
from lab.records.seeds import uniforms
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Edit

Stream = NewType("Stream", np.uint64)
"""Keeps the draws of one kind apart from those of another, and from those that route and choose tokens."""
LIKELY_TOKEN = Stream(np.uint64(0x3C3C3C3C3C3C3C3C))
CANDIDATE = Stream(np.uint64(0x5A5A5A5A5A5A5A5A))
CATEGORY = Stream(np.uint64(0x6969696969696969))


def draws(
    stream: Stream, keys: UInt64[np.ndarray, " row"], step: int, n: int, device: torch.device
) -> Int[Tensor, " row"]:
    """A uniform number from 0 to n - 1 for each row."""
    return torch.from_numpy((uniforms(keys ^ stream, step) * n).astype(np.int64)).to(device)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Each row has one of the edits, which its key chooses; a single edit is the plain case.

    A control is many draws, not one lucky or unlucky vector.
    """

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        _require_some(self.edits)


@dataclass(frozen=True, slots=True)
class PerCategory:
    """An edit for each category of a taxonomy: the row gets that of the category of a model's stream at its last token.

    With `reader` "tuned" it is the tuned model's stream, so that the tuned model runs while the hybrid writes.
    """

    taxonomy: Taxonomy
    """Learned from the stream of the model that is read."""
    reader: Literal["base", "tuned"]
    edits: tuple[Edit, ...]
    """In the order of the taxonomy's categories."""

    def __post_init__(self) -> None:
        _require_some(self.edits)
        if len(self.edits) != self.taxonomy.n_categories:
            raise VectorError(
                f"{len(self.edits)} edits for a taxonomy of {self.taxonomy.n_categories} categories: want one each"
            )


@dataclass(frozen=True, slots=True)
class RandomCategory:
    """One of the edits at random for each token, by the row's key and the step: a control."""

    edits: tuple[Edit, ...]

    def __post_init__(self) -> None:
        _require_some(self.edits)


VectorTable: TypeAlias = Drawn | PerCategory | RandomCategory
"""What a routed row is steered by."""


def edit_of(
    table: VectorTable, *, keys: UInt64[np.ndarray, " row"], step: int, category: Int[Tensor, " row"]
) -> Int[Tensor, " row"]:
    """Which of the table's edits each row gets at a token; only `PerCategory` asks for the category there."""
    match table:
        case Drawn(edits=edits):
            return torch.from_numpy((keys % np.uint64(len(edits))).astype(np.int64)).to(category.device)
        case PerCategory():
            return category
        case RandomCategory(edits=edits):
            return draws(CATEGORY, keys, step, len(edits), category.device)


def _require_some(edits: tuple[Edit, ...]) -> None:
    if not edits:
        raise VectorError("a hybrid that steers was given no vector: want at least one")
