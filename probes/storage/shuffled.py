"""shuffled: the activations of one site in random order, a few shards in memory at a time."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import StorageError
from lab.seeds import torch_generator
from probes.site import Site
from probes.storage.shard import read_rows
from probes.storage.store import Store


def shuffled(
    store: Store, site: Site, batch_size: int, *, seed: int, epoch: int = 0, n_mixed: int = 4
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """One epoch: every row of `site` exactly once, in batches of `batch_size`, the last of which may be smaller.

    The shards come in random order, and `n_mixed` at a time are mixed row by row; with fewer than there are, two rows
    of one shard are more often near each other than chance has it. A function of the store, `seed` and `epoch` (and of
    `n_mixed` and `batch_size`). Holds `n_mixed` shards of the site, and reads another while it does. On the CPU, in
    the dtype that is stored. For SAELens' trainer, chain the epochs:
    `chain.from_iterable(shuffled(store, site, 4096, seed=0, epoch=epoch) for epoch in count())`.

    Raises StorageError for a batch size or a number of shards below 1, and as `read_rows` does.
    """
    if batch_size < 1 or n_mixed < 1:
        raise StorageError(f"batches of {batch_size} rows from {n_mixed} shards: want at least 1 of each")
    order = torch.randperm(len(store.portions), generator=torch_generator(seed, "shards", epoch)).tolist()
    rest = torch.empty(0, store.plan.d_model, dtype=store.plan.dtype)
    for start in range(0, len(order), n_mixed):
        rows = _together(store, site, order[start : start + n_mixed], rest)
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
    store: Store, site: Site, numbers: list[int], rest: Float[Tensor, "left d_model"]
) -> Float[Tensor, "row d_model"]:
    """The rows of some shards behind those that the last batch left."""
    n_rows = len(rest) + sum(store.portions[number].n_rows for number in numbers)
    rows = torch.empty(n_rows, store.plan.d_model, dtype=store.plan.dtype)
    rows[: len(rest)] = rest
    first = len(rest)
    for number in numbers:
        shard = read_rows(store, site, number)
        rows[first : first + len(shard)] = shard
        first += len(shard)
    return rows
