"""held_out: the problems that no SAE learns from, so that it can be judged on them."""

import polars as pl

from lab.seeds import child_seed
from probes.storage.store import Store


def is_held_out(problem_id: str, share: float) -> bool:
    """Whether a problem is among the held-out `share` in [0, 1] of all problems.

    A hash of its name decides, so every store, site and seed holds out the same problems, and a larger share holds out
    those of a smaller one and more.
    """
    return child_seed(0, "held out", problem_id) < share * 2**63


def count_rows(store: Store, share: float) -> tuple[int, int]:
    """(rows to learn from, held-out rows) of a store; StorageError where a part of its index is missing."""
    sizes = store.index().group_by("problem_id").agg(pl.len().alias("n_rows")).collect()
    held_out = [is_held_out(problem_id, share) for problem_id in sizes["problem_id"]]
    n_held_out = int(sizes["n_rows"].filter(pl.Series(held_out, dtype=pl.Boolean)).sum())
    return store.n_rows - n_held_out, n_held_out
