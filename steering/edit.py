"""Edits of the residual stream, and `apply`, which puts them into a model and takes them out again."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lab.errors import SiteError, VectorError
from lab.models.load import Model
from probes.site import Site, hook_site
from steering.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class Add:
    """Adds `dose * vector` at every position the model reads while the edit is in place."""

    vector: SteeringVector
    dose: float = 1.0


@contextmanager
def apply_each(model: Model, edits: Sequence[Add], chosen: Int[Tensor, " batch"]) -> Iterator[None]:
    """As `apply`, but row i of every batch gets `edits[chosen[i]]` alone.

    A site that only some of the vectors have is left alone in the other rows. Raises VectorError for another width,
    SiteError for a layer out of range.
    """
    for edit in edits:
        check_width(model, edit.vector)
    nothing = torch.zeros(model.anatomy.d_model)

    def add(site: Site) -> RemovableHandle:
        table = torch.stack([edit.dose * edit.vector.directions.get(site, nothing) for edit in edits])
        rows = table[chosen.cpu()].to(model.device)

        def change(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            return stream + rearrange(rows.to(stream.dtype), "batch d_model -> batch 1 d_model")

        return hook_site(model, site, change)

    handles = []
    try:
        for site in sorted({site for edit in edits for site in edit.vector.sites}):
            handles.append(add(site))
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_width(model: Model, vector: SteeringVector) -> None:
    """VectorError unless `vector` is as wide as the model's residual stream."""
    if vector.d_model != model.anatomy.d_model:
        raise VectorError(
            f"a vector of width {vector.d_model} does not fit {model.name}, whose d_model is {model.anatomy.d_model}: "
            "use the model it was fitted on"
        )


@contextmanager
def apply(model: Model, *edits: Add) -> Iterator[None]:
    """Within the block, every forward pass of `model` is edited; afterwards, also after an exception, none is.

    No weight is touched. Edits act on each position as it is read, so cached and uncached decoding agree; several edits
    at a site add up in the order given. The vector is cast to the stream's dtype. Raises VectorError for a vector of
    another width, SiteError for a layer out of range or, on a clean exit, for an edit whose hook never fired although
    the model ran.
    """
    for edit in edits:
        check_width(model, edit.vector)
    fired: dict[Site, int] = {}
    handles = []
    n_passes = 0

    def count(*_: object) -> None:
        nonlocal n_passes
        n_passes += 1

    def add(site: Site, direction: Float[Tensor, " d_model"]) -> None:
        fired.setdefault(site, 0)
        here = direction.to(model.device)

        def change(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
            fired[site] += 1
            return stream + here.to(stream.device, stream.dtype)

        handles.append(hook_site(model, site, change))

    try:
        handles.append(model.network.register_forward_hook(count))
        for edit in edits:
            for site, direction in edit.vector.directions.items():
                add(site, edit.dose * direction)
        yield
    finally:
        for handle in handles:
            handle.remove()
    silent = [str(site) for site, n_fired in fired.items() if n_passes and not n_fired]
    if silent:
        raise SiteError(f"edits at {', '.join(silent)} never acted in {n_passes} passes of {model.name}")
