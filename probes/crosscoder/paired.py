"""Paired: the activations of a base and a tuned model at one site, for the same tokens in the same order."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import SiteError, StorageError
from probes.sae.held_out import is_held_out
from probes.site import Site
from probes.storage.shuffled import shuffled
from probes.storage.store import Store, read_index

Split = Literal["training", "held out"]
HELD_OUT_SHARE = 0.1
"""Of all problems, those that `is_held_out`, so the same whatever the store or the seed."""


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

        In the order of `probes.storage.shuffled`, which reads both stores at once, so twice what that says is held. The
        indices of all shards are read first. Raises StorageError for a size below 1, where the indices of the two
        stores differ, or where no problem of the stores is in `split`.
        """

        def keep(problem_id: str) -> bool:
            return is_held_out(problem_id, HELD_OUT_SHARE) == (split == "held out")

        self._require_same_tokens()
        sides = [
            shuffled(store, self.site, batch_size, seed=seed, epoch=epoch, n_mixed=n_mixed, keep=keep)
            for store in (self.base, self.tuned)
        ]
        n_batches = 0
        for batches in zip(*sides, strict=True):
            n_batches += 1
            yield torch.stack(batches, dim=1).float()
        if not n_batches:
            raise StorageError(
                f"no problem of {self.base.path} is {split}: want texts of more problems, of which "
                f"{HELD_OUT_SHARE:.0%} are held out"
            )

    def _require_same_tokens(self) -> None:
        for number in range(len(self.base.portions)):
            one, other = (read_index(store, number).select("text", "position") for store in (self.base, self.tuned))
            if not one.equals(other):
                raise StorageError(
                    f"row by row, shard {number} of {self.base.path} and {self.tuned.path} is not of the same tokens: "
                    "want both captured with tokenizers that are alike"
                )
