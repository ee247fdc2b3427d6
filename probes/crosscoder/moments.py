"""Moments: all that is read off activations about a crosscoder, summed in one pass."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import EstimateError
from probes.crosscoder.crosscoder import Crosscoder


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
