"""splice: a model that reads its own stream through an SAE, with the features changed on the way."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from lab.errors import SiteError
from lab.models.load import Model
from probes.sae.dictionary import Sae, require_fit
from probes.site import Handle, hook_site

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
        match change:
            case Reconstruction():
                return sae.decode(features).to(stream.dtype)
            case _:
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
