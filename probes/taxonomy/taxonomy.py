"""Taxonomy: categories of segments of text, as a model's stream at one site tells them apart."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import ModelError
from lab.models.load import Model
from probes.site import Site, check_site


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Taxonomy:
    """A clustering SAE: few latents, each of which is a category; it reads single tokens or means of several.

    Whatever reads a stream by it centres and normalises the stream in the same way as the fit did.
    """

    site: Site
    """Whose stream it reads."""
    mean: Float[Tensor, " d_model"]
    """Mean segment of the fit, subtracted from all that is read."""
    W_enc: Float[Tensor, "d_model category"]
    b_enc: Float[Tensor, " category"]
    W_dec: Float[Tensor, "category d_model"]
    """Unit rows: the direction of each category."""
    b_dec: Float[Tensor, " d_model"]
    k: int
    """How many scores a reconstruction keeps."""
    names: tuple[str, ...]
    """What each category is called."""
    model: str
    model_digest: str
    """Digest of the model whose stream it learned."""

    def __post_init__(self) -> None:
        n = self.n_categories
        if len(self.names) != n or not 1 <= self.k <= n:
            raise ModelError(
                f"a taxonomy of {n} categories came with {len(self.names)} names and k = {self.k}: "
                f"want a name for each, and k from 1 to {n}"
            )
        if not all(bool(tensor.isfinite().all()) for tensor in self.tensors.values()):
            raise ModelError("a taxonomy holds NaN or infinity: the fit diverged or its file is damaged")

    @property
    def n_categories(self) -> int:
        """How many categories."""
        return self.W_dec.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.W_dec.shape[1]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        return {name: getattr(self, name) for name in ("mean", "W_enc", "b_enc", "W_dec", "b_dec")}

    def to(self, device: torch.device) -> "Taxonomy":
        """The same taxonomy with its tensors on `device`, where it reads streams."""
        return replace(self, **{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def scores(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place category"]:
        """The latents' pre-activations on the centred and normalised stream; no ReLU, so of either sign."""
        return normalised(stream.to(self.mean.dtype), self.mean) @ self.W_enc + self.b_enc

    def category(self, stream: Float[Tensor, "*place d_model"]) -> Int[Tensor, "*place"]:
        """Number of the category with the highest score; the first of equals."""
        return self.scores(stream).argmax(dim=-1)

    def reconstruction(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_model"]:
        """The centred and normalised stream, as the `k` highest scores write it."""
        return sparse(self.scores(stream), self.k) @ self.W_dec + self.b_dec

    def squared_errors(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place"]:
        """Squared distance of each reconstruction from the centred and normalised stream."""
        wanted = normalised(stream.to(self.mean.dtype), self.mean)
        return (self.reconstruction(stream) - wanted).square().sum(dim=-1)


def normalised(
    stream: Float[Tensor, "*place d_model"], mean: Float[Tensor, " d_model"]
) -> Float[Tensor, "*place d_model"]:
    """`stream` less `mean`, at L2 norm 1; 0 where it equals the mean."""
    return torch.nn.functional.normalize(stream - mean, dim=-1)


def sparse(scores: Float[Tensor, "*place category"], k: int) -> Float[Tensor, "*place category"]:
    """The `k` highest scores of each place, and 0 for the others."""
    kept = scores.topk(k, dim=-1)
    return torch.zeros_like(scores).scatter(-1, kept.indices, kept.values)


def require_fit(taxonomy: Taxonomy, model: Model) -> None:
    """ModelError unless `taxonomy` learned from exactly this model, SiteError unless the model has its layer."""
    if taxonomy.d_model != model.anatomy.d_model:
        raise ModelError(
            f"a taxonomy of {taxonomy.model} reads streams of width {taxonomy.d_model}, and {model.name} has d_model "
            f"{model.anatomy.d_model}: want the model that it learned from"
        )
    if taxonomy.model_digest != model.digest:
        raise ModelError(
            f"a taxonomy learned from {taxonomy.model} with digest {taxonomy.model_digest}, and {model.name} has "
            f"{model.digest}: want that very model, or a taxonomy fitted to this one"
        )
    check_site(model, taxonomy.site)
