"""candidates: the tokens that a sweep of doses and windows has the base model write."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from lab.models.load import Model
from probes.capture.site import Site, hook_site
from steering.change import addition
from steering.edit import Add, Edit
from steering.hybrid.intervention import Chooser, FirstChooser, RandomChooser, Sweep, TunedChooser
from steering.hybrid.vector_table import CANDIDATE, draws
from steering.hybrid.watched_decoder import WatchedDecoder, begun_at, lowest, n_below


def deltas(model: Model, edits: Sequence[Edit]) -> dict[Site, Float[Tensor, "edit d_model"]]:
    """What each `Add` adds at each site of any of them, nothing at those it lacks; fp32, on the device."""
    nothing = torch.zeros(model.anatomy.d_model)
    adds = [edit for edit in edits if isinstance(edit, Add)]
    sites = {site for edit in adds for site in edit.vector.sites}
    return {
        site: torch.stack([edit.dose * edit.vector.directions.get(site, nothing) for edit in adds]).to(model.device)
        for site in sites
    }


def candidates(
    base: WatchedDecoder,
    sweep: Sweep,
    added: Mapping[Site, Float[Tensor, "edit d_model"]],
    rows: Int[Tensor, " routed"],
    chosen: Int[Tensor, " routed"],
    *,
    max_rows: int,
) -> Int[Tensor, "routed candidate"]:
    """The base's most likely token after each dose and window of `sweep`, for some rows, of which each has an edit.

    `added` are the `deltas` of the sweep's edits, and `chosen` says which of them a row has. A candidate computes the
    positions of its own window alone, in the blocks above the lowest site, from the stream that the base's own pass
    left there; those of one width go together, `max_rows` at a time, and windows that cover a row's text are one.
    """
    widths = pass_widths(sweep.windows, base.cached.mask[rows].sum(dim=1))
    doses = torch.tensor(sweep.doses, dtype=torch.float32, device=rows.device)
    tokens = rows.new_zeros(len(rows), len(sweep.doses), len(sweep.windows))
    for width in widths.unique().tolist():
        covers = widths == width
        some = covers.any(dim=1).nonzero()[:, 0]
        each = some.repeat_interleave(len(doses))
        parts = zip(each.split(max_rows), doses.repeat(len(some)).split(max_rows), strict=True)
        found = [_most_likely(base, added, rows[part], chosen[part], dose, width=width) for part, dose in parts]
        best = torch.cat(found).reshape(len(some), -1, 1)
        tokens[some] = torch.where(covers[some, None], best, tokens[some])
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


def _most_likely(
    base: WatchedDecoder,
    added: Mapping[Site, Float[Tensor, "edit d_model"]],
    rows: Int[Tensor, " some"],
    edit: Int[Tensor, " some"],
    dose: Float[Tensor, " some"],
    *,
    width: int,
) -> Int[Tensor, " some"]:
    """The base's most likely token after an edit of the last `width` positions, of rows that may repeat."""
    site = lowest(added)
    with ExitStack() as stack:
        stack.enter_context(begun_at(base.model, site, base.streams[site][rows, -width:]))
        for where, delta in added.items():
            change = addition(base.model, (dose[:, None] * delta[edit])[:, None])
            stack.callback(hook_site(base.model, where, change).remove)
        return base.cached.branches(rows, width, first_layer=n_below(site)).argmax(dim=-1)


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
    return tokens.gather(1, place[:, None])[:, 0]


def n_different(tokens: Int[Tensor, "row candidate"]) -> Float[Tensor, " row"]:
    """How many different tokens a row has."""
    ordered = tokens.sort(dim=1).values
    return 1.0 + (ordered[:, 1:] != ordered[:, :-1]).sum(dim=1)
