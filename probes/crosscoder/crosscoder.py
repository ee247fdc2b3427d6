"""Crosscoder: one sparse dictionary for the streams of two models, a decoder row in each for every latent."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.records.errors import EstimateError, SiteError, StorageError, condensed
from lab.records.provenance import Provenance, require_intact
from lab.records.tables import replacing
from probes.capture.site import Site
from probes.sae.architecture import is_held_out
from probes.storage.store import Store, read_index, require_site, shuffled
from probes.tables import CROSSCODER_QUALITY

FORMAT = "elicitation-lab.crosscoder.1"
SHAPES = {
    "scale": ("model",),
    "W_enc": ("model", "d_model", "d_sae"),
    "b_enc": ("d_sae",),
    "W_dec": ("d_sae", "model", "d_model"),
    "b_dec": ("model", "d_model"),
    "threshold": (),
}
"""Axes of every tensor in a file."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Crosscoder:
    """Reads both streams as one list of latents, and writes latents as both streams; model 0 is base, 1 is tuned.

    Each stream is multiplied by its model's scale first, so that the two have a like say; decoder rows are in these
    units, so that the norms of the two rows of a latent can be compared.
    """

    site: Site
    """Whose streams it reads, in both models."""
    base_digest: str
    tuned_digest: str
    scale: Float[Tensor, " model"]
    W_enc: Float[Tensor, "model d_model d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae model d_model"]
    b_dec: Float[Tensor, "model d_model"]
    threshold: Float[Tensor, ""]
    """A latent that is not above it is 0; the same for all latents, and at least 0."""

    @property
    def d_sae(self) -> int:
        return len(self.b_enc)

    @property
    def own_model(self) -> Int[Tensor, " d_sae"]:
        """Of every latent the model in which its decoder row is the longer: 0 base, 1 tuned; base where they tie."""
        return self.W_dec.norm(dim=2).argmax(dim=1)

    def scaled(self, streams: Float[Tensor, "*place model d_model"]) -> Float[Tensor, "*place model d_model"]:
        return streams * self.scale[:, None]

    def encode(self, streams: Float[Tensor, "*place model d_model"]) -> Float[Tensor, "*place d_sae"]:
        """Activation of every latent, never negative: both streams read together, above the threshold."""
        found = self.scaled(streams).flatten(-2) @ self.W_enc.flatten(0, 1) + self.b_enc
        return torch.where(found > self.threshold, found, 0.0)

    def decode_scaled(self, latents: Float[Tensor, "*place d_sae"]) -> Float[Tensor, "*place model d_model"]:
        """The streams that these latents stand for, in the units of the dictionary."""
        return (latents @ self.W_dec.flatten(1)).unflatten(-1, self.b_dec.shape) + self.b_dec

    def decode(self, latents: Float[Tensor, "*place d_sae"]) -> Float[Tensor, "*place model d_model"]:
        """The streams that these latents stand for, in the models' own units."""
        return self.decode_scaled(latents) / self.scale[:, None]


def save_crosscoder(crosscoder: Crosscoder, path: Path, made_by: Provenance) -> None:
    """Writes one safetensors file with its provenance inside, whole or not at all; equal values give equal bytes."""
    tensors = {name: getattr(crosscoder, name).detach().cpu().contiguous() for name in SHAPES}
    # One key, because safetensors writes several in an order that changes from run to run.
    about = {
        "format": FORMAT,
        "site": str(crosscoder.site),
        "base_digest": crosscoder.base_digest,
        "tuned_digest": crosscoder.tuned_digest,
        "provenance": json.loads(made_by.to_json()),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"crosscoder": json.dumps(about, sort_keys=True)})


def load_crosscoder(path: Path, *, device: torch.device) -> Crosscoder:
    """The crosscoder of a file that `save_crosscoder` wrote.

    Raises StorageError where it cannot be read, is of another format, lacks a tensor, or has one of a wrong shape, not
    finite, or a scale or threshold that cannot be.
    """
    try:
        require_intact(path)
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("crosscoder", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise StorageError(f"cannot read a crosscoder at {path}: {condensed(error)}; train it again") from error
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        about = about if isinstance(about, dict) else {}
        raise StorageError(f"{path} is of format {about.get('format')!r}, want {FORMAT!r}: train one by this package")
    _require_whole(path, tensors)
    try:
        site = Site.parse(about["site"])
        return Crosscoder(site=site, base_digest=about["base_digest"], tuned_digest=about["tuned_digest"], **tensors)
    except (KeyError, TypeError, AttributeError, SiteError) as error:
        raise StorageError(f"{path} does not say of which site and models it is: train it again") from error


def _require_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    if odd := sorted({*SHAPES} ^ {*tensors}):
        raise StorageError(f"{path} lacks {', '.join(odd)}, or has it too many: it is damaged, put it back from a copy")
    sizes = dict(zip(SHAPES["W_enc"], tensors["W_enc"].shape, strict=False)) | {"model": 2}
    for name, axes in SHAPES.items():
        shape = tuple(tensors[name].shape)
        if shape != (wanted := tuple(sizes.get(axis, 0) for axis in axes)):
            raise StorageError(f"{path} holds {name} as {shape}, want {wanted} for {' '.join(axes) or 'one number'}")
        if not tensors[name].is_floating_point() or not bool(tensors[name].isfinite().all()):
            raise StorageError(f"{path} holds {name} with entries that are no finite numbers: train it again")
    if not bool((tensors["scale"] > 0).all()) or not bool(tensors["threshold"] >= 0):
        raise StorageError(f"{path} holds a scale that is not above 0, or a threshold below it: train it again")


def batch_top_k(values: Float[Tensor, "batch latent"], k: int) -> Bool[Tensor, "batch latent"]:
    """True at the k * batch largest entries, so that a row keeps k on average and may keep more or fewer.

    All entries where there are fewer. Bussmann, Leask and Nanda 2024 (2412.06410).
    """
    chosen = torch.zeros(values.numel(), dtype=torch.bool, device=values.device)
    n_kept = min(k * len(values), values.numel())
    chosen[values.flatten().topk(n_kept, sorted=False).indices] = True
    return chosen.view_as(values)


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
            require_site(store, self.site)
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

    def batches(
        self, split: Split, batch_size: int, *, seed: int, epoch: int = 0, n_mixed: int = 4
    ) -> Iterator[Float[Tensor, "batch 2 d_model"]]:
        """Every row of the problems in `split` once, base before tuned, in float32 on the CPU.

        In the order of `probes.storage.store.shuffled`, of both stores at once, so twice what that says is held. The
        indices of all shards are read first. Raises StorageError for a size below 1, where the indices of the two
        stores differ, or where no problem of the stores is in `split`.
        """

        def keep(problem_id: str) -> bool:
            return is_held_out(problem_id, HELD_OUT_SHARE) == (split == "held out")

        for number in range(len(self.base.portions)):
            one, other = (read_index(store, number).select("text", "position") for store in (self.base, self.tuned))
            if not one.equals(other):
                raise StorageError(
                    f"row by row, shard {number} of {self.base.path} and {self.tuned.path} is not of the same tokens: "
                    "want both captured with tokenizers that are alike"
                )
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


class Moments(NamedTuple):
    """Sums over rows, in double precision on the CPU and in the dictionary's units; two models, where there is a 2.

    A latent's own direction is its decoder row in its own model. An offset is a stream's distance from the bias, which
    lies near the mean: less to cancel.
    """

    n_rows: Float[Tensor, ""]
    n_active: Float[Tensor, " d_sae"]
    """Rows at which a latent is above 0."""
    sums: Float[Tensor, " d_sae"]
    """Of activations."""
    squares: Float[Tensor, " d_sae"]
    """Of squared activations."""
    along_error: Float[Tensor, "2 d_sae"]
    """Of activation times (own direction . error of the reconstruction)."""
    along_reconstruction: Float[Tensor, "2 d_sae"]
    """Of activation times (own direction . reconstruction without its bias)."""
    squared_error: Float[Tensor, " 2"]
    """Of the squared distance between stream and reconstruction."""
    offset: Float[Tensor, "2 d_model"]
    squared_offset: Float[Tensor, " 2"]

    @property
    def squared_distance(self) -> Float[Tensor, " 2"]:
        return self.squared_offset - self.offset.square().sum(dim=1) / self.n_rows


@torch.no_grad()
def moments(crosscoder: Crosscoder, batches: Iterable[Float[Tensor, "_batch 2 d_model"]]) -> Moments:
    """The moments of `crosscoder` over batches of both streams; EstimateError where there is no row."""
    direction = crosscoder.W_dec[torch.arange(crosscoder.d_sae), crosscoder.own_model]
    total = None
    for batch in batches:
        summed = _summed(crosscoder, direction, batch.to(crosscoder.W_dec))
        total = summed if total is None else Moments(*map(torch.add, total, summed))
    if total is None:
        raise EstimateError("no activations came: want at least one row of both streams")
    return total


def _summed(
    crosscoder: Crosscoder, direction: Float[Tensor, "d_sae d_model"], streams: Float[Tensor, "batch 2 d_model"]
) -> Moments:
    latents = crosscoder.encode(streams)
    offset = crosscoder.scaled(streams) - crosscoder.b_dec
    reconstruction = crosscoder.decode_scaled(latents) - crosscoder.b_dec
    error = offset - reconstruction

    def along(target: Float[Tensor, "batch 2 d_model"]) -> Float[Tensor, "2 d_sae"]:
        return torch.stack([((latents.T @ target[:, model]) * direction).sum(dim=1) for model in range(2)])

    parts = {
        "n_rows": torch.tensor(len(streams)),
        "n_active": (latents > 0).sum(dim=0),
        "sums": latents.sum(dim=0),
        "squares": latents.square().sum(dim=0),
        "along_error": along(error),
        "along_reconstruction": along(reconstruction),
        "squared_error": error.square().sum(dim=(0, 2)),
        "offset": offset.sum(dim=0),
        "squared_offset": offset.square().sum(dim=(0, 2)),
    }
    return Moments(**{name: part.cpu().double() for name, part in parts.items()})


def quality(summed: Moments) -> pl.DataFrame:
    """`CROSSCODER_QUALITY` rows, one a model; explained variance is NaN where the stream does not vary."""
    shared = {
        "n_rows": int(summed.n_rows),
        "d_sae": len(summed.n_active),
        "l0": float(summed.n_active.sum() / summed.n_rows),
        "dead_share": float((summed.n_active == 0).double().mean()),
    }
    explained = (1 - summed.squared_error / summed.squared_distance).tolist()
    rows = zip(("base", "tuned"), explained, strict=True)
    return CROSSCODER_QUALITY.frame([{"model": model, "explained_variance": part} | shared for model, part in rows])
