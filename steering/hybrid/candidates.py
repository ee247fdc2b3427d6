"""candidates: the tokens that a sweep of doses and windows has the base model write."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from lab.models.load import Model
from probes.site import Site, hook_site
from steering.change import addition
from steering.edit import Add, Edit
from steering.hybrid.above import begun_at, lowest, n_below
from steering.hybrid.act import Chooser, FirstChooser, RandomChooser, Sweep, TunedChooser
from steering.hybrid.draws import CANDIDATE, draws
from steering.hybrid.watched_rows import WatchedRows


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
    base: WatchedRows,
    sweep: Sweep,
    added: Mapping[Site, Float[Tensor, "edit d_model"]],
    rows: Int[Tensor, " routed"],
    chosen: Int[Tensor, " routed"],
    *,
    max_rows: int,
) -> Int[Tensor, "routed candidate"]:
    """The base's most likely token after each dose and window of `sweep`, for some rows, of which each has an edit.

    `added` are the `deltas` of the sweep's edits, and `chosen` says which of them a row has. All candidates of all rows
    go through the blocks above the lowest site together, `max_rows` at a time, from the stream that the base's own pass
    left there; they share the cache below. The positions of the widest window are computed afresh, and those outside a
    candidate's own window come out as the base's own.
    """
    site = lowest(added)
    n_last = base.streams[site].shape[1]
    device = rows.device
    pairs = [(dose, n_last if window is None else window) for dose in sweep.doses for window in sweep.windows]
    dose = torch.tensor([dose for dose, _ in pairs], dtype=torch.float32, device=device).repeat(len(rows))
    window = torch.tensor([window for _, window in pairs], device=device).repeat(len(rows))
    repeated, edit = rows.repeat_interleave(len(pairs)), chosen.repeat_interleave(len(pairs))
    from_end = torch.arange(n_last, 0, -1, device=device)
    tokens = []
    for part in torch.arange(len(repeated), device=device).split(max_rows):
        scale = torch.where(from_end <= window[part, None], dose[part, None], 0.0)[:, :, None]
        with ExitStack() as stack:
            stack.enter_context(begun_at(base.model, site, base.streams[site][repeated[part]]))
            for where, delta in added.items():
                change = addition(base.model, scale * delta[edit[part], None])
                stack.callback(hook_site(base.model, where, change).remove)
            logits = base.cached.branches(repeated[part], n_last, first_layer=n_below(site))
        tokens.append(logits.argmax(dim=-1))
    return torch.cat(tokens).reshape(len(rows), len(pairs))


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
