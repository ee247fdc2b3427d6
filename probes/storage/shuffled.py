"""shuffled: the activations of one site in random order, a few shards in memory at a time."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.records.errors import StorageError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from probes.storage.shard import read_rows
from probes.storage.store import Store, read_index


def shuffled(
    store: Store,
    site: Site,
    batch_size: int,
    *,
    seed: int,
    epoch: int = 0,
    n_mixed: int = 4,
    keep: Callable[[str], bool] | None = None,
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """One epoch: every row of `site` exactly once, in batches of `batch_size`, the last of which may be smaller.

    With `keep`, only the rows of problems for whose id it is True. The shards come in random order, and `n_mixed` at a
    time are mixed row by row; with fewer than there are, two rows of one shard are more often near each other than
    chance has it. A function of the store, `seed` and `epoch` (and of `n_mixed`, `batch_size` and `keep`). Holds
    `n_mixed` shards of the site, and reads another while it does. On the CPU, in the dtype that is stored. For
    SAELens' trainer, chain the epochs:
    `chain.from_iterable(shuffled(store, site, 4096, seed=0, epoch=epoch) for epoch in count())`.

    Raises StorageError for a batch size or a number of shards below 1, with `keep` for an index that cannot be read,
    and as `read_rows` does.
    """
    if batch_size < 1 or n_mixed < 1:
        raise StorageError(f"batches of {batch_size} rows from {n_mixed} shards: want at least 1 of each")
    order = torch.randperm(len(store.portions), generator=torch_generator(seed, "shards", epoch)).tolist()
    rest = torch.empty(0, store.plan.d_model, dtype=store.plan.dtype)
    for start in range(0, len(order), n_mixed):
        rows = _together(store, site, order[start : start + n_mixed], rest, keep)
        places = torch.randperm(len(rows), generator=torch_generator(seed, "rows", epoch, start))
        n_whole = len(rows) - len(rows) % batch_size
        for first in range(0, n_whole, batch_size):
            yield rows[places[first : first + batch_size]]
        rest = rows[places[n_whole:]]
        # Before the next ones are read.
        del rows
    if len(rest):
        yield rest


def _together(
    store: Store,
    site: Site,
    numbers: list[int],
    rest: Float[Tensor, "left d_model"],
    keep: Callable[[str], bool] | None,
) -> Float[Tensor, "row d_model"]:
    """The rows of some shards behind those that the last batch left."""
    masks = {number: _kept(store, number, keep) for number in numbers} if keep else {}
    n_kept = [int(masks[number].sum()) if keep else store.portions[number].n_rows for number in numbers]
    rows = torch.empty(len(rest) + sum(n_kept), store.plan.d_model, dtype=store.plan.dtype)
    rows[: len(rest)] = rest
    first = len(rest)
    for number, n_here in zip(numbers, n_kept, strict=True):
        shard = read_rows(store, site, number)
        rows[first : first + n_here] = shard[masks[number]] if keep else shard
        first += n_here
    return rows


def _kept(store: Store, number: int, keep: Callable[[str], bool]) -> Bool[Tensor, " row"]:
    """Which rows of a shard are of problems to keep."""
    problems = read_index(store, number)["problem_id"]
    kept = [problem_id for problem_id in problems.unique().to_list() if keep(problem_id)]
    return torch.from_numpy(np.array(problems.is_in(kept).to_numpy()))
