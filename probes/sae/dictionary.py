"""Sae: a sparse autoencoder of one site, whoever trained it."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.errors import ModelError
from lab.models.load import Model
from probes.site import Site, check_site


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sae:
    """Reads a stream as features, and writes features as a stream; the features' decoder rows are directions."""

    name: str
    """As a user would name it: its directory."""
    site: Site
    """Whose stream it reads."""
    coder: nn.Module
    """An inference SAE of SAELens, frozen: `encode`, and a `decode` that is `features @ W_dec + b_dec`."""
    trained_on: str | None
    """Digest of the model whose activations it learned; None where its files do not say."""
    digest: str
    """Sixteen hex digits of SHA-256 over its weights and configuration."""
    architecture: str = "unknown"
    """What was trained, as a user writes it, such as `topk:16`, or the kind that its files name."""

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_model"]:  # noqa: N802 -- as the field calls it
        """A direction for every feature."""
        weight = self.coder.W_dec
        assert isinstance(weight, Tensor)
        return weight

    @property
    def d_sae(self) -> int:
        """How many features."""
        return self.W_dec.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return self.W_dec.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.W_dec.dtype

    def encode(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place d_sae"]:
        """Activation of every feature, never negative, in the SAE's own dtype; gradients pass."""
        return self.coder.encode(stream.to(self.dtype))  # pyright: ignore[reportCallIssue]

    def decode(self, features: Float[Tensor, "*place d_sae"]) -> Float[Tensor, "*place d_model"]:
        """The stream that these features stand for, in the SAE's own dtype; gradients pass."""
        return self.coder.decode(features)  # pyright: ignore[reportCallIssue]


def require_fit(sae: Sae, model: Model) -> None:
    """ModelError unless `sae` is as wide as the model's stream, and SiteError unless the model has its layer.

    That it learned from another model is no error: a base model's SAE may read the model tuned from it.
    """
    if sae.d_model != model.anatomy.d_model:
        raise ModelError(
            f"SAE {sae.name} reads streams of width {sae.d_model}, and {model.name} has d_model "
            f"{model.anatomy.d_model}: want an SAE of this model, or of one it was tuned from"
        )
    check_site(model, sae.site)
