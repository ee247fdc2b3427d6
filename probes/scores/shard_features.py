"""shard_features: the features of one shard of a store, a few rows at a time."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.records.errors import ModelError, SiteError, StorageError
from lab.records.tables import read_table
from probes.capture.texts import TEXTS
from probes.sae.dictionary import Sae
from probes.scores.labels import LABELS
from probes.storage.shard import read_rows
from probes.storage.store import TEXTS_FILE, Store, read_index

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


def label_rows(
    store: Store, labels: pl.DataFrame, names: tuple[str, ...], number: int
) -> Bool[np.ndarray, "row label"]:
    """Whether each row of shard `number` has each of the labels `names`, by a `LABELS` table of the store's texts."""
    portion = store.portions[number]
    last = portion.first_text + portion.n_texts - 1
    codes = pl.DataFrame({"label": names, "code": range(len(names))}, schema={"label": pl.String, "code": pl.Int32})
    found = (
        labels.filter(pl.col("text").is_between(portion.first_text, last))
        .join(codes, on="label")
        .join(read_index(store, number).select("row", "text", "position"), on=["text", "position"])
    )
    marked = np.zeros((portion.n_rows, len(names)), dtype=bool)
    marked[found["row"].to_numpy(), found["code"].to_numpy()] = True
    return marked


def label_names(store: Store, labels: pl.DataFrame) -> tuple[str, ...]:
    """The labels of a `LABELS` table, sorted.

    Raises StorageError where it has no row, or a row that is no token of the store's texts.
    """
    if LABELS.checked(labels).is_empty():
        raise StorageError(
            f"no token of the texts in {store.path} has a label: want labels of these texts, by steps or by words"
        )
    lengths = (
        read_texts(store)
        .with_row_index("text")
        .select(
            pl.col("text").cast(pl.Int32), (pl.col("prompt").list.len() + pl.col("completion").list.len()).alias("n")
        )
    )
    strays = labels.join(lengths, on="text", how="left").filter(
        pl.col("n").is_null() | (pl.col("position") >= pl.col("n")) | (pl.col("position") < 0)
    )
    if len(strays):
        text, position, label, _ = strays.row(0)
        raise StorageError(
            f"the labels are of other texts than {store.path}: {label!r} is at token {position} of text {text}, and "
            f"{len(strays)} such tokens do not exist; label the very texts that were captured"
        )
    return tuple(labels["label"].unique().sort())
