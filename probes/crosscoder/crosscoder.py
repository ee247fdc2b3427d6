"""Crosscoder: one sparse dictionary for the streams of two models, a decoder row in each for every latent."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lab.records.errors import SiteError, StorageError
from lab.records.provenance import Provenance
from lab.records.tables import replacing
from probes.capture.site import Site

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
        """How many latents."""
        return len(self.b_enc)

    @property
    def own_model(self) -> Int[Tensor, " d_sae"]:
        """Of every latent the model in which its decoder row is the longer: 0 base, 1 tuned; base where they tie."""
        return self.W_dec.norm(dim=2).argmax(dim=1)

    def scaled(self, streams: Float[Tensor, "*place model d_model"]) -> Float[Tensor, "*place model d_model"]:
        """Streams in the units of the dictionary."""
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
        with safe_open(path, framework="pt", device=str(device)) as file:
            about = json.loads((file.metadata() or {}).get("crosscoder", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys() if name in SHAPES}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise StorageError(f"cannot read a crosscoder at {path}: {error}") from error
    if about.get("format") != FORMAT:
        raise StorageError(f"{path} is of format {about.get('format')!r}, want {FORMAT!r}: train one by this package")
    _require_whole(path, tensors)
    try:
        site = Site.parse(about["site"])
        return Crosscoder(site=site, base_digest=about["base_digest"], tuned_digest=about["tuned_digest"], **tensors)
    except (KeyError, SiteError) as error:
        raise StorageError(f"{path} does not say of which site and models it is: train it again") from error


def _require_whole(path: Path, tensors: dict[str, Tensor]) -> None:
    if missing := [name for name in SHAPES if name not in tensors]:
        raise StorageError(f"{path} lacks {', '.join(missing)}: it is damaged, put it back from a copy")
    sizes: dict[str, int] = {"model": 2}
    for name, axes in SHAPES.items():
        shape = tuple(tensors[name].shape)
        if len(shape) == len(axes):
            for axis, size in zip(axes, shape, strict=True):
                sizes.setdefault(axis, size)
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
