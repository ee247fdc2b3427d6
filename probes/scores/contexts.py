"""contexts: where features are most active, with the tokens around."""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.records.errors import SiteError
from probes.sae.dictionary import Sae
from probes.scores.shard_features import read_texts, require_features, shard_features
from probes.storage.store import Store, read_index
from probes.tables import CONTEXTS


class _Top(NamedTuple):
    """The best contexts so far, the best first; those of value 0 are none."""

    values: Float[Tensor, "rank feature"]
    texts: Int[Tensor, "rank feature"]
    positions: Int[Tensor, "rank feature"]
    windows: Float[Tensor, "rank feature place"]
    """Activations from `before` places in front of the position to `after` behind it; NaN where none is stored."""


class _Read(NamedTuple):
    """One text of the store."""

    text: int
    positions: Int[Tensor, " row"]
    active: Float[Tensor, "row feature"]


def contexts(
    store: Store,
    sae: Sae,
    tokenizer: PreTrainedTokenizerBase,
    features: Sequence[int],
    *,
    n_contexts: int = 10,
    before: int = 10,
    after: int = 5,
) -> pl.DataFrame:
    """`CONTEXTS` rows: for each of `features` the `n_contexts` texts with its largest activations, by its largest one.

    One pass for all features, in which the best so far stay on the SAE's device; memory does not grow with the tokens.
    Of equal activations the one of the earlier text comes first, and in a text the earlier token. A feature that never
    fires has no context. Tokens are decoded one by one, so that a piece of a character shows as a mark.

    Raises SiteError for a feature that the SAE does not have or a window of nothing, and as `shard_features` does.
    """
    require_features(sae, features)
    if n_contexts < 1 or before < 0 or after < 0:
        raise SiteError(
            f"{n_contexts} contexts of {before} tokens before and {after} after: want 1 context or more, and no window "
            "below 0"
        )
    device, n_places = sae.W_dec.device, before + 1 + after
    shape = (n_contexts, len(features))
    top = _Top(
        values=torch.zeros(shape, dtype=torch.float64, device=device),
        texts=torch.zeros(shape, dtype=torch.long, device=device),
        positions=torch.zeros(shape, dtype=torch.long, device=device),
        windows=torch.full((*shape, n_places), torch.nan, device=device),
    )
    columns = torch.tensor(list(features), device=device)
    for number in range(len(store.portions)):
        for read in _texts(store, sae, columns, number):
            top = _better(top, read, before, after)
    return _table(store, tokenizer, features, top, before)


def _texts(store: Store, sae: Sae, columns: Int[Tensor, " feature"], number: int) -> Iterator[_Read]:
    """The texts of a shard, each whole, though rows are encoded in batches."""
    index = read_index(store, number)
    texts = index["text"].to_numpy()
    positions = torch.tensor(index["position"].to_numpy(), dtype=torch.long, device=columns.device)
    ends = [*(np.flatnonzero(np.diff(texts)) + 1).tolist(), len(texts)]
    held, first, n_ended = torch.empty(0, len(columns), device=columns.device), 0, 0
    for chosen, active in shard_features(store, sae, number):
        held = torch.cat([held, active[:, columns].float()])
        while n_ended < len(ends) and ends[n_ended] <= chosen.stop:
            end = ends[n_ended]
            yield _Read(int(texts[first]), positions[first:end], held[: end - first])
            held, first, n_ended = held[end - first :], end, n_ended + 1


def _better(top: _Top, read: _Read, before: int, after: int) -> _Top:
    """`top` with the text's largest activation of each feature put where it belongs, behind its equals."""
    best, at = read.active.max(dim=0)
    # As a rule most features have seen better, so only the others are sorted.
    (rising,) = (best > top.values[-1]).nonzero(as_tuple=True)
    if not len(rising):
        return top
    positions = read.positions[at[rising]]
    values = torch.cat([top.values[:, rising], best[rising].double()[None]])
    values, order = values.sort(dim=0, descending=True, stable=True)
    order = order[:-1]

    def merged(old: Tensor, new: Tensor) -> Tensor:
        together = torch.cat([old[:, rising], new[None]])
        places = order.reshape(*order.shape, *[1] * (together.ndim - 2)).expand(-1, -1, *together.shape[2:])
        return old.index_copy(1, rising, together.gather(0, places))

    return _Top(
        values=top.values.index_copy(1, rising, values[:-1]),
        texts=merged(top.texts, torch.full_like(positions, read.text)),
        positions=merged(top.positions, positions),
        windows=merged(top.windows, _windows(read, rising, positions, before, after)),
    )


def _windows(
    read: _Read, rising: Int[Tensor, " some"], positions: Int[Tensor, " some"], before: int, after: int
) -> Float[Tensor, "some place"]:
    """Activations around a position of each feature; NaN where none is stored."""
    start = int(read.positions[0]) - before
    n_places = int(read.positions[-1]) + after + 1 - start
    by_place = torch.full((n_places, len(rising)), torch.nan, device=read.active.device)
    by_place[read.positions - start] = read.active[:, rising]
    offsets = torch.arange(-before, after + 1, device=positions.device)
    return by_place.gather(0, (positions - start)[None] + offsets[:, None]).T


def _table(
    store: Store, tokenizer: PreTrainedTokenizerBase, features: Sequence[int], top: _Top, before: int
) -> pl.DataFrame:
    """The contexts with the words of their texts."""
    texts = read_texts(store)
    n_places = top.windows.shape[2]
    spelled = functools.cache(lambda token: str(tokenizer.decode([token])))
    values, of_text, positions = top.values.tolist(), top.texts.tolist(), top.positions.tolist()
    windows = top.windows.cpu()
    rows: list[dict[str, object]] = []
    for column, feature in enumerate(features):
        for rank in range(len(values)):
            if not values[rank][column]:
                break
            text, position = texts.row(of_text[rank][column], named=True), positions[rank][column]
            tokens = [*text["prompt"], *text["completion"]]
            first, end = max(0, position - before), min(len(tokens), position - before + n_places)
            shown = windows[rank, column, first - (position - before) : end - (position - before)]
            rows.append(
                {
                    "feature": feature,
                    "rank": rank,
                    "problem_id": text["problem_id"],
                    "sample_index": text["sample_index"],
                    "position": position,
                    "activation": values[rank][column],
                    "first": first,
                    "tokens": [spelled(token) for token in tokens[first:end]],
                    "activations": shown.tolist(),
                }
            )
    return CONTEXTS.frame(rows)
