"""Interventions: what happens at a token that is routed away from the base model; most look up an edit in a table."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal, Protocol, TypeAlias, assert_never

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from lab.models.pair import ModelPair
from lab.records.errors import VectorError
from lab.records.seeds import uniforms
from probes.capture.site import Site, check_site, hook_site
from probes.taxonomy.taxonomy import Taxonomy, require_fit
from steering.edit import Add, Edit, apply_each, check_fit, edit_sites
from steering.gate import Everywhere
from steering.hybrid.hybrid import (
    Intervention,
    Moment,
    Reads,
    Routed,
    Side,
    WatchedDecoder,
    Written,
    begun_at,
    insisting,
    n_below,
)
from steering.vector import addition

# Each keeps the draws of one kind apart from those of another, and from those that route and choose tokens.
LIKELY_TOKEN, CANDIDATE, CATEGORY = map(np.uint64, (0x3C3C3C3C3C3C3C3C, 0x5A5A5A5A5A5A5A5A, 0x6969696969696969))


def draws(
    kind: np.uint64, keys: UInt64[np.ndarray, " row"], step: int, n: int, device: torch.device
) -> Int[Tensor, " row"]:
    """A uniform number from 0 to n - 1 for each row."""
    return torch.from_numpy((uniforms(keys ^ kind, step) * n).astype(np.int64)).to(device)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Each row has one of the edits, by its key: a control is many draws, not one lucky or unlucky vector."""

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
    """The site of all edits of a table that a pass reaches first: whatever is steered is computed from there up.

    Of a block's output and the next one's input, which are equal, it is the output.
    """
    sites = [site for edit in table.edits for site in edit_sites(edit)]
    return min(sites, key=lambda site: (n_below(site), site.stream == "resid_pre"))


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
    """`table` with its taxonomy on the device of the model that it reads; raises as `open_hybrid`."""
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


@dataclass(frozen=True, slots=True)
class TunedChooser:
    """The candidate to which the tuned model gives the highest probability; the first of equals."""


@dataclass(frozen=True, slots=True)
class RandomChooser:
    """A uniform draw from the candidates, by the row's key and the step: a control."""


@dataclass(frozen=True, slots=True)
class FirstChooser:
    """The candidate of the first dose and the first window."""


Chooser: TypeAlias = TunedChooser | RandomChooser | FirstChooser
"""Which of the candidates of a sweep is written."""


@dataclass(frozen=True, slots=True)
class Sweep(Tabled):
    """The base model writes a candidate for each dose and window, and the chooser picks one; it is then certain.

    A candidate is the most likely token after the edit, scaled by the dose, at the last tokens of the text, as many as
    the window says. Candidates are ordered by dose, then by window. The base's cache holds nothing of them.
    """

    table: VectorTable
    """Of `Add`s that act everywhere."""
    doses: tuple[float, ...]
    windows: tuple[int | None, ...]
    """None is the whole text, the prompt included."""
    chooser: Chooser

    def __post_init__(self) -> None:
        if not all(isinstance(edit, Add) and isinstance(edit.where, Everywhere) for edit in self.table.edits):
            raise VectorError(
                "a sweep of doses and windows was given edits other than Add, or with a gate: want Add(vector)"
            )
        if not self.doses or not all(map(isfinite, self.doses)):
            raise VectorError(f"a sweep over the doses {list(self.doses)}: want at least one, and finite numbers")
        if not self.windows or not all(window is None or window >= 1 for window in self.windows):
            raise VectorError(
                f"a sweep over the windows {list(self.windows)}: want at least one, each a number of tokens from 1 on "
                "or None for the whole text"
            )

    @property
    def reads(self) -> Reads:
        """As far back as the widest window, and what the chooser asks."""
        n_last = None if None in self.windows else max(window for window in self.windows if window is not None)
        return self.reads_back(n_last) | (Reads(tuned={}) if isinstance(self.chooser, TunedChooser) else Reads())

    def placed(self, pair: ModelPair) -> "Sweep":
        return replace(self, table=placed_table(pair, self.table))

    def write(self, here: Routed) -> Written:
        """All probability on the chosen candidate; a choice by the tuned model costs the bits of those that differ."""
        tokens = candidates(here.base, self, here.rows, self.edits(here))
        asked = here.tuned_logits if isinstance(self.chooser, TunedChooser) else None
        token = chosen(self.chooser, tokens, keys=here.keys, step=here.now.step, tuned_logits=asked)
        return Written(insisting(here.logits, token), "steered", None if asked is None else n_different(tokens).log2())


def candidates(
    base: WatchedDecoder, sweep: Sweep, rows: Int[Tensor, " routed"], edits: Int[Tensor, " routed"]
) -> Int[Tensor, "routed candidate"]:
    """The base's most likely token after each dose and window of `sweep`, for `rows` with their `edits`.

    A candidate computes the positions of its own window alone, in the blocks above the lowest site, from the stream
    that the base's own pass left there; those of one width go together, at most as many at a time as the batch had rows
    at its start, and windows that cover a row's text are one.
    """
    used, chosen = edits.unique(return_inverse=True)
    adds = [edit for index in used.tolist() if isinstance(edit := sweep.table.edits[index], Add)]
    nothing = torch.zeros(base.model.anatomy.d_model)
    added = {
        site: torch.stack([edit.dose * edit.vector.directions.get(site, nothing) for edit in adds]).to(
            base.model.device
        )
        for site in {site for edit in adds for site in edit.vector.sites}
    }
    widths = pass_widths(sweep.windows, base.cached.mask[rows].sum(dim=1))
    doses = torch.tensor(sweep.doses, dtype=torch.float32, device=rows.device)
    tokens = rows.new_zeros(len(rows), len(sweep.doses), len(sweep.windows))
    site = start(sweep.table)

    def most_likely(some: Int[Tensor, " some"], dose: Float[Tensor, " some"], width: int) -> Int[Tensor, " some"]:
        """After an edit of the last `width` positions of routed rows, which may repeat."""
        with ExitStack() as stack:
            stack.enter_context(begun_at(base.model, site, base.streams[site][rows[some], -width:]))
            for where, delta in added.items():
                change = addition(base.model, (dose[:, None] * delta[chosen[some]])[:, None])
                stack.callback(hook_site(base.model, where, change).remove)
            return base.cached.branches(rows[some], width, first_layer=n_below(site)).argmax(dim=-1)

    for width in widths.unique().tolist():
        covers = widths == width
        some = covers.any(dim=1).nonzero()[:, 0]
        parts = some.repeat_interleave(len(doses)).split(base.max_rows)
        scales = doses.repeat(len(some)).split(base.max_rows)
        found = torch.cat([most_likely(part, dose, width) for part, dose in zip(parts, scales, strict=True)])
        tokens[some] = torch.where(covers[some, None], found.reshape(len(some), -1, 1), tokens[some])
    return tokens.flatten(1)


def pass_widths(windows: Sequence[int | None], n_tokens: Int[Tensor, " row"]) -> Int[Tensor, "row window"]:
    """How many last positions the pass computes that gives a row of `n_tokens` its candidates of a window.

    Windows that do not reach the start of the text have a width of their own; all others share one pass, as wide as the
    longest text that they cover.
    """
    longest = int(n_tokens.max())
    reach = torch.tensor([longest if window is None else window for window in windows], device=n_tokens.device)
    whole = reach >= n_tokens[:, None]
    covered = torch.where(whole, n_tokens[:, None], 0).max()
    return torch.where(whole, covered, reach)


def chosen(
    chooser: Chooser,
    tokens: Int[Tensor, "row candidate"],
    *,
    keys: UInt64[np.ndarray, " row"],
    step: int,
    tuned_logits: Float[Tensor, "row d_vocab"] | None,
) -> Int[Tensor, " row"]:
    """The token of each row that the chooser takes from among its candidates."""
    match chooser:
        case FirstChooser():
            return tokens[:, 0]
        case RandomChooser():
            place = draws(CANDIDATE, keys, step, tokens.shape[1], tokens.device)
        case TunedChooser():
            assert tuned_logits is not None, "the hybrid opens the tuned model for a chooser that asks it"
            # The first of equals: of two candidates with the same token it does not matter which.
            place = tuned_logits.gather(1, tokens).argmax(dim=1)
        case never:
            assert_never(never)
    return tokens.gather(1, place[:, None])[:, 0]


def n_different(tokens: Int[Tensor, "row candidate"]) -> Float[Tensor, " row"]:
    """How many different tokens a row has."""
    ordered = tokens.sort(dim=1).values
    return 1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)


@dataclass(frozen=True, slots=True)
class Steer(Tabled):
    """The base model writes under an edit, such as a vector added, of the position it reads last.

    The base's cache then holds that position as it was without the edit ("forgotten": no later token sees the edit
    unless it is routed too), or as it is with the edit ("kept": all later tokens see it).
    """

    table: VectorTable
    memory: Literal["forgotten", "kept"] = "forgotten"

    @property
    def reads(self) -> Reads:
        """At the last position alone."""
        return self.reads_back(1)

    def placed(self, pair: ModelPair) -> "Steer":
        return replace(self, table=placed_table(pair, self.table))

    def write(self, here: Routed) -> Written:
        """The base's own distribution, with its last position computed again under each row's edit."""
        site, base = start(self.table), here.base
        run = base.cached.revise if self.memory == "kept" else base.cached.again
        with (
            begun_at(base.model, site, base.streams[site][here.rows, -1:]),
            apply_each(base.model, self.table.edits, self.edits(here)),
        ):
            return Written(run(here.rows, first_layer=n_below(site)), "steered")


@dataclass(frozen=True, slots=True)
class Takeover(Intervention):
    """The tuned model's own distribution is used."""

    @property
    def reads(self) -> Reads:
        """The tuned model's logits."""
        return Reads(tuned={})

    def write(self, here: Routed) -> Written:
        return Written(here.tuned_logits, "tuned")


@dataclass(frozen=True, slots=True)
class SecondChoice(Intervention):
    """The base model's own second choice is written: a control of what the gate alone does."""

    def write(self, here: Routed) -> Written:
        logits = here.logits
        return Written(insisting(logits, logits.topk(2, dim=-1).indices[:, 1]), "steered")


@dataclass(frozen=True, slots=True)
class LikelyToken(Intervention):
    """A uniform draw from the base model's first choices is written: a control."""

    top: int = 5
    """How many first choices."""

    def write(self, here: Routed) -> Written:
        logits = here.logits
        first = logits.topk(min(self.top, logits.shape[1]), dim=-1).indices
        place = draws(LIKELY_TOKEN, here.keys, here.now.step, first.shape[1], first.device)
        return Written(insisting(logits, first.gather(1, place[:, None])[:, 0]), "steered")


INTERVENTIONS: Mapping[str, type[Intervention]] = {
    "steer": Steer,
    "sweep": Sweep,
    "takeover": Takeover,
    "second-choice": SecondChoice,
    "likely-token": LikelyToken,
}
"""Every kind by its name."""
