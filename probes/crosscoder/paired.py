"""Paired: the activations of a base and a tuned model at one site, for the same tokens in the same order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import polars as pl
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.errors import SiteError, StorageError
from lab.seeds import child_seed, torch_generator
from probes.site import Site
from probes.storage.shard import read_rows
from probes.storage.store import INDEX, Store, index_name

Split = Literal["training", "held out"]
HELD_OUT_SHARE = 0.1
"""Of all problems, those held out: by a hash of their id, so the same whatever the store or the seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """Two stores of the same texts, positions and cut into shards, by two models of one width.

    Raises SiteError where a store lacks the site, and StorageError where the stores are of the same model, or their
    rows would not be the same tokens in the same order.
    """

    base: Store
    tuned: Store
    site: Site

    def __post_init__(self) -> None:
        one, other = self.base.plan, self.tuned.plan
        both = f"{self.base.path} and {self.tuned.path}"
        for store in (self.base, self.tuned):
            if self.site not in store.plan.sites:
                raise SiteError(f"{store.path} has no {self.site}: there is {', '.join(map(str, store.plan.sites))}")
        if one.model_digest == other.model_digest:
            raise StorageError(
                f"{both} are of the same model, {one.model} with digest {one.model_digest}: want a base and a model "
                "tuned from it; for a null, the base and a later checkpoint of its pretraining"
            )
        if one.d_model != other.d_model:
            raise StorageError(f"{both} have widths {one.d_model} and {other.d_model}: want models of one d_model")
        if one.texts != other.texts:
            raise StorageError(
                f"{both} are of texts {one.texts} and {other.texts}: want both captured from the same traces"
            )
        if one.positions != other.positions:
            raise StorageError(f"{both} are of positions {one.positions} and {other.positions}: want the same rule")
        if self.base.portions != self.tuned.portions:
            raise StorageError(
                f"{both} are cut into shards differently ({len(self.base.portions)} and {len(self.tuned.portions)}): "
                "want them captured with the same sites, stored dtype and --shard-mib"
            )

    @property
    def d_model(self) -> int:
        """Width of either stream."""
        return self.base.plan.d_model

    def batches(
        self, split: Split, batch_size: int, *, seed: int, epoch: int = 0, n_mixed: int = 4
    ) -> Iterator[Float[Tensor, "batch 2 d_model"]]:
        """Every row of the problems in `split` once, base before tuned, in float32 on the CPU.

        Shards come in random order and `n_mixed` at a time are mixed row by row, as in `probes.storage.shuffled`; the
        last batch may be smaller. A function of the stores and the arguments. Holds these shards of both stores, and as
        much again while they are put together. Raises StorageError for a size below 1,
        where the indices of the two stores differ, or where no problem of the stores is in `split`.
        """
        if batch_size < 1 or n_mixed < 1:
            raise StorageError(f"batches of {batch_size} rows from {n_mixed} shards: want at least 1 of each")
        order = torch.randperm(len(self.base.portions), generator=torch_generator(seed, "shards", epoch)).tolist()
        rest, n_rows = torch.empty(0, 2, self.d_model), 0
        for start in range(0, len(order), n_mixed):
            rows = torch.cat([rest, *(self._shard(number, split) for number in order[start : start + n_mixed])])
            n_rows += len(rows) - len(rest)
            places = torch.randperm(len(rows), generator=torch_generator(seed, "rows", epoch, start))
            n_whole = len(rows) - len(rows) % batch_size
            for first in range(0, n_whole, batch_size):
                yield rows[places[first : first + batch_size]]
            rest = rows[places[n_whole:]]
        if not n_rows:
            raise StorageError(
                f"no problem of {self.base.path} is {split}: want texts of more problems, of which "
                f"{HELD_OUT_SHARE:.0%} are held out"
            )
        if len(rest):
            yield rest

    def _shard(self, number: int, split: Split) -> Float[Tensor, "row 2 d_model"]:
        indices = [_index(store, number) for store in (self.base, self.tuned)]
        if not indices[0].select("text", "position").equals(indices[1].select("text", "position")):
            raise StorageError(
                f"row by row, shard {number} of {self.base.path} and {self.tuned.path} is not of the same tokens: "
                "want both captured with tokenizers that are alike"
            )
        chosen = _in_split(indices[0]["problem_id"], split)
        streams = [read_rows(store, self.site, number)[chosen].float() for store in (self.base, self.tuned)]
        return torch.stack(streams, dim=1)


def _index(store: Store, number: int) -> pl.DataFrame:
    file = store.path / index_name(number)
    try:
        return INDEX.checked(pl.read_parquet(file))
    except (OSError, pl.exceptions.ComputeError) as error:
        raise StorageError(f"cannot read {file}: {error}; lab capture repair {store.path}") from error


def _in_split(problem_ids: pl.Series, split: Split) -> Bool[Tensor, " row"]:
    held_out = {
        problem_id: child_seed(0, "held out", problem_id) < HELD_OUT_SHARE * 2**63
        for problem_id in problem_ids.unique()
    }
    chosen = torch.tensor([held_out[problem_id] for problem_id in problem_ids], dtype=torch.bool)
    return chosen if split == "held out" else ~chosen
