"""Sae: a sparse autoencoder of one site, whoever trained it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.models.load import Model
from lab.records.errors import ModelError, SiteError
from probes.capture.site import Handle, Site, check_site, hook_site


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


FeatureChange: TypeAlias = Callable[[Float[Tensor, "batch pos d_sae"]], Float[Tensor, "batch pos d_sae"]]
"""Features -> what they are to be; must not write into what it is given."""


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """In the stream's place stands what the SAE writes of it; the error of the SAE is lost."""


@contextmanager
def splice(model: Model, sae: Sae, change: FeatureChange | Reconstruction) -> Iterator[None]:
    """Within the block, every forward pass of `model` goes through `sae`; afterwards, also after an exception, none.

    With a function, the stream becomes stream + (change(f) - f) @ W_dec with f its features: the SAE's error is kept,
    so that unchanged features leave the logits as they are, to the bit. It acts at every position that is read, also at
    padding, so cached and uncached passes agree; in the wider of the
    SAE's dtype and the stream's, and the result is cast to the stream's. Gradients
    pass. No weight is touched.

    Raises ModelError for an SAE of another width, SiteError for a layer out of range or, on a clean exit, where the
    hook never fired although the model ran.
    """
    require_fit(sae, model)
    n_passes, n_fired = 0, 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    def edit(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        nonlocal n_fired
        n_fired += 1
        features = sae.encode(stream)
        if isinstance(change, Reconstruction):
            return sae.decode(features).to(stream.dtype)
        return (stream + (change(features) - features) @ sae.W_dec).to(stream.dtype)

    handles: list[Handle] = [model.network.register_forward_hook(count)]
    try:
        handles.append(hook_site(model, sae.site, edit))
        yield
    finally:
        for handle in handles:
            handle.remove()
    if n_passes and not n_fired:
        raise SiteError(f"{sae.name} at {sae.site} never acted in {n_passes} passes of {model.name}")
