"""label_rows: which rows of a store's shards have which labels."""

import numpy as np
import polars as pl
from jaxtyping import Bool

from lab.errors import StorageError
from probes.labels import LABELS
from probes.scores.shard_features import read_texts
from probes.storage.store import Store, read_index


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
