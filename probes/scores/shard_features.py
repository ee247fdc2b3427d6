"""shard_features: the features of one shard of a store, a few rows at a time."""

from collections.abc import Iterator, Sequence

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import ModelError, SiteError
from lab.tables import read_table
from probes.sae.dictionary import Sae
from probes.storage.shard import read_rows
from probes.storage.store import TEXTS_FILE, Store
from probes.texts import TEXTS

MOST_VALUES = 2**22
"""Activations of features that are held at once; part of the result's last digits, so no option."""


def shard_features(store: Store, sae: Sae, number: int) -> Iterator[tuple[slice, Float[Tensor, "row d_sae"]]]:
    """Which rows of shard `number`, and the activations of all features there, on the SAE's device, rows in order.

    Raises ModelError where the store's streams have another width than the SAE's, and as `read_rows` does for a site
    that was not captured or a damaged file. That the SAE learned from another model is no error.
    """
    rows = read_site(store, sae, number)
    n_together = rows_together(sae)
    for first in range(0, len(rows), n_together):
        chosen = slice(first, min(first + n_together, len(rows)))
        yield chosen, encoded(sae, rows[chosen])


@torch.no_grad()
def encoded(sae: Sae, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_sae"]:
    """Activations of all features at some rows, on the SAE's device."""
    return sae.encode(rows.to(sae.W_dec.device))


def rows_together(sae: Sae) -> int:
    """How many rows are encoded at once."""
    return max(1, MOST_VALUES // sae.d_sae)


def read_site(store: Store, sae: Sae, number: int) -> Float[Tensor, "row d_model"]:
    """One shard of the stream that `sae` reads; raises as `shard_features` does."""
    if store.plan.d_model != sae.d_model:
        raise ModelError(
            f"SAE {sae.name} reads streams of width {sae.d_model}, and {store.path} holds those of {store.plan.model}, "
            f"of width {store.plan.d_model}: want a store of the SAE's model, or of one tuned from it"
        )
    return read_rows(store, sae.site, number)


def read_texts(store: Store) -> pl.DataFrame:
    """The store's `TEXTS` table."""
    return read_table(store.path / TEXTS_FILE, TEXTS)


def require_features(sae: Sae, features: Sequence[int]) -> None:
    """SiteError unless `sae` has all of `features`, and there is at least one."""
    strays = [feature for feature in features if not 0 <= feature < sae.d_sae]
    if strays or not features:
        raise SiteError(
            f"features {strays or 'none'}: want at least one of those that SAE {sae.name} has, 0 to {sae.d_sae - 1}"
        )
