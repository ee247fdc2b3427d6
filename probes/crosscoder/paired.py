"""Paired: the activations of a base and a tuned model at one site, for the same tokens in the same order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.records.errors import EstimateError, SiteError, StorageError
from probes.capture.site import Site
from probes.crosscoder.crosscoder import Crosscoder
from probes.sae.recipe import is_held_out
from probes.storage.shuffled import shuffled
from probes.storage.store import Store, read_index
from probes.tables import CROSSCODER_QUALITY

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Moments:
    """Sums over rows, in double precision on the CPU and in the dictionary's units.

    A latent's own direction is its decoder row in its own model.
    """

    n_rows: int
    n_active: Int[Tensor, " d_sae"]
    """Rows at which a latent is above 0."""
    sums: Float[Tensor, " d_sae"]
    """Of activations."""
    squares: Float[Tensor, " d_sae"]
    """Of squared activations."""
    along_error: Float[Tensor, "2 d_sae"]
    """Of activation times (own direction . error of the reconstruction), for each model."""
    along_reconstruction: Float[Tensor, "2 d_sae"]
    """Of activation times (own direction . reconstruction without its bias), for each model."""
    squared_error: Float[Tensor, " 2"]
    """Of the squared distance between stream and reconstruction, for each model."""
    squared_distance: Float[Tensor, " 2"]
    """Of the squared distance between stream and mean stream, for each model."""


@torch.no_grad()
def moments(crosscoder: Crosscoder, batches: Iterable[Float[Tensor, "_batch 2 d_model"]]) -> Moments:
    """The moments of `crosscoder` over batches of both streams; EstimateError where there is no row."""
    direction = crosscoder.W_dec[torch.arange(crosscoder.d_sae), crosscoder.own_model]
    n_rows, total = 0, None
    for batch in batches:
        n_rows += len(batch)
        summed = _sums(crosscoder, direction, batch.to(crosscoder.W_dec))
        total = summed if total is None else _Sums(*map(torch.add, total, summed))
    if total is None:
        raise EstimateError("no activations came: want at least one row of both streams")
    return Moments(
        n_rows=n_rows,
        n_active=total.n_active.long(),
        sums=total.latents,
        squares=total.squares,
        along_error=total.along_error,
        along_reconstruction=total.along_reconstruction,
        squared_error=total.squared_error,
        squared_distance=total.squared_offset - total.offset.square().sum(dim=1) / n_rows,
    )


class _Sums(NamedTuple):
    """Over the rows of a batch. Offsets are distances from the bias, which lies near the mean: less to cancel."""

    n_active: Float[Tensor, " d_sae"]
    latents: Float[Tensor, " d_sae"]
    squares: Float[Tensor, " d_sae"]
    along_error: Float[Tensor, "2 d_sae"]
    along_reconstruction: Float[Tensor, "2 d_sae"]
    squared_error: Float[Tensor, " 2"]
    offset: Float[Tensor, "2 d_model"]
    squared_offset: Float[Tensor, " 2"]


def _sums(
    crosscoder: Crosscoder, direction: Float[Tensor, "d_sae d_model"], streams: Float[Tensor, "batch 2 d_model"]
) -> _Sums:
    latents = crosscoder.encode(streams)
    offset = crosscoder.scaled(streams) - crosscoder.b_dec
    reconstruction = crosscoder.decode_scaled(latents) - crosscoder.b_dec
    error = offset - reconstruction

    def along(target: Float[Tensor, "batch 2 d_model"]) -> Float[Tensor, "2 d_sae"]:
        return torch.stack([((latents.T @ target[:, model]) * direction).sum(dim=1) for model in range(2)])

    summed = _Sums(
        n_active=(latents > 0).sum(dim=0),
        latents=latents.sum(dim=0),
        squares=latents.square().sum(dim=0),
        along_error=along(error),
        along_reconstruction=along(reconstruction),
        squared_error=error.square().sum(dim=(0, 2)),
        offset=offset.sum(dim=0),
        squared_offset=offset.square().sum(dim=(0, 2)),
    )
    return _Sums(*(part.cpu().double() for part in summed))


def quality(summed: Moments) -> pl.DataFrame:
    """`CROSSCODER_QUALITY` rows, one a model; explained variance is NaN where the stream does not vary."""
    d_sae = len(summed.n_active)
    return CROSSCODER_QUALITY.frame(
        [
            {
                "model": model,
                "n_rows": summed.n_rows,
                "d_sae": d_sae,
                "explained_variance": float(1 - summed.squared_error[place] / summed.squared_distance[place]),
                "l0": float(summed.n_active.sum()) / summed.n_rows,
                "dead_share": float((summed.n_active == 0).sum()) / d_sae,
            }
            for place, model in enumerate(("base", "tuned"))
        ]
    )
