"""VectorTable: which edit a routed row gets, and the part of an intervention that looks it up."""

from dataclasses import dataclass, replace
from typing import NewType, Protocol, TypeAlias, assert_never

import numpy as np
import torch
from jaxtyping import Int, UInt64
from torch import Tensor

from lab.models.load import ModelPair
from lab.records.errors import VectorError
from lab.records.seeds import uniforms
from probes.capture.site import Site, check_site
from probes.taxonomy.taxonomy import Taxonomy, require_fit
from steering.edit import Edit, check_fit, edit_sites
from steering.hybrid.hybrid import Intervention, Moment, Reads, Routed, Side
from steering.hybrid.watched_decoder import lowest

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
    reader: Side
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
        case never:
            assert_never(never)


def start(table: VectorTable) -> Site:
    """The lowest site of all edits of a table: whatever is steered is computed from there up."""
    return lowest([site for edit in table.edits for site in edit_sites(edit)])


class Tabled(Intervention, Protocol):
    """What happens by the edits of a table, each looked up for its row."""

    table: VectorTable

    def reads_back(self, n_last: int | None) -> Reads:
        """The stream that the edits change, at so many of the last positions (None: all), and what names a category."""
        reads = Reads(base={start(self.table): n_last})
        if not isinstance(self.table, PerCategory):
            return reads
        read = {self.table.taxonomy.site: 1}
        return reads | (Reads(tuned=read) if self.table.reader == "tuned" else Reads(base=read))

    @property
    def categories_of(self) -> Side | None:
        """Whoever the table reads."""
        return self.table.reader if isinstance(self.table, PerCategory) else None

    def category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"] | None:
        """By the table's taxonomy, where it has one."""
        if not isinstance(self.table, PerCategory):
            return None
        view = now.asked if self.table.reader == "tuned" else now.base
        return self.table.taxonomy.category(view.streams[self.table.taxonomy.site][rows])

    def edits(self, here: Routed) -> Int[Tensor, " routed"]:
        """Which edit each routed row gets."""
        return edit_of(self.table, keys=here.keys, step=here.now.step, category=here.category)


def placed_table(pair: ModelPair, table: VectorTable) -> VectorTable:
    """`table` with its taxonomy on the device of the model that it reads.

    Raises ModelError for a taxonomy of another model than it is to read, VectorError or ModelError for an edit of
    another width than the base model's, and SiteError for a layer that the models lack.
    """
    for edit in table.edits:
        check_fit(pair.base, edit)
        for site in edit_sites(edit):
            check_site(pair.base, site)
    if not isinstance(table, PerCategory):
        return table
    model = pair.tuned if table.reader == "tuned" else pair.base
    require_fit(table.taxonomy, model)
    return replace(table, taxonomy=table.taxonomy.to(model.device))


def _require_some(edits: tuple[Edit, ...]) -> None:
    if not edits:
        raise VectorError("a hybrid that steers was given no vector: want at least one")
