"""change: the arithmetic of edits, as functions from a stream to the stream in its place."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, sin
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, normalize, softplus

from lab.models.load import Model
from lab.records.errors import VectorError
from probes.sae.dictionary import Sae


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coefficient:
    """One hidden layer: softplus(gelu(h W_in + b_in) . w_out + b_out), a number above 0 for every token.

    Several may share the tensors of the hidden layer.
    """

    W_in: Float[Tensor, "d_model d_hidden"]
    b_in: Float[Tensor, " d_hidden"]
    w_out: Float[Tensor, " d_hidden"]
    b_out: Float[Tensor, ""]

    def __post_init__(self) -> None:
        if not all(bool(tensor.isfinite().all()) for tensor in (self.W_in, self.b_in, self.w_out, self.b_out)):
            raise VectorError("a coefficient's network holds NaN or infinity: its fit diverged or its file is damaged")

    @property
    def d_model(self) -> int:
        """Width of the stream that it reads."""
        return self.W_in.shape[0]

    def of(self, stream: Float[Tensor, "*place d_model"]) -> Float[Tensor, "*place"]:
        """The coefficient of each token, in the wider of the network's dtype and the stream's."""
        dtype = torch.promote_types(stream.dtype, self.W_in.dtype)
        W_in, b_in, w_out, b_out = (
            tensor.to(stream.device, dtype) for tensor in (self.W_in, self.b_in, self.w_out, self.b_out)
        )
        return softplus(gelu(stream.to(dtype) @ W_in + b_in) @ w_out + b_out)


StreamChange: TypeAlias = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"]]
"""A stream -> what stands in its place, of the same dtype; gradients pass."""


def addition(model: Model, direction: Float[Tensor, "*batch_1 d_model"]) -> StreamChange:
    """h + d, in the stream's dtype; with axes `batch 1 d_model` every row has a d of its own."""
    here = direction.to(model.device)

    def add(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return stream + here.to(stream.device, stream.dtype)

    return add


def scaled_addition(model: Model, direction: Float[Tensor, " d_model"], coefficient: Coefficient) -> StreamChange:
    """h + c(h) d, in single precision or better."""
    here = direction.to(model.device, working_dtype(model))

    def add(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        wide = stream.to(here.dtype)
        return (wide + coefficient.of(wide)[..., None] * here.to(stream.device)).to(stream.dtype)

    return add


def ablation(model: Model, direction: Float[Tensor, " d_model"]) -> StreamChange:
    """h - (h . u) u with u = d / |d|, in single precision or better."""
    unit = normalize(direction.double(), dim=0).to(model.device, working_dtype(model))

    def ablate(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        wide, u = stream.to(unit.dtype), unit.to(stream.device)
        return (wide - (wide @ u)[..., None] * u).to(stream.dtype)

    return ablate


def rotation(
    model: Model, start: Float[Tensor, " d_model"], end: Float[Tensor, " d_model"], angle: float
) -> StreamChange:
    """Turns the part of h in the plane of `start` and `end`, in single precision or better; the rest of h stays.

    With a and b the coordinates of h along orthonormal e (along `start`) and f (towards `end`), h gains
    (a (cos - 1) - b sin) e + (a sin + b (cos - 1)) f.
    """
    first = normalize(start.double(), dim=0)
    second = normalize(end.double(), dim=0)
    plane = torch.stack([first, normalize(second - (second @ first) * first, dim=0)])
    gain = torch.tensor([[cos(angle) - 1, sin(angle)], [-sin(angle), cos(angle) - 1]], dtype=torch.float64)
    plane, gained = (part.to(model.device, working_dtype(model)) for part in (plane, gain @ plane))

    def rotate(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        wide = stream.to(plane.dtype)
        return (wide + wide @ plane.T.to(stream.device) @ gained.to(stream.device)).to(stream.dtype)

    return rotate


def clamping(sae: Sae, feature: int, value: float) -> StreamChange:
    """h + (value - f(h)) W_dec[feature], in the wider of the SAE's dtype and the stream's."""

    def clamp(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        missing = value - sae.encode(stream)[..., feature]
        return (stream + missing[..., None] * sae.W_dec[feature]).to(stream.dtype)

    return clamp


def working_dtype(model: Model) -> torch.dtype:
    """Single precision for models of half precision, whose projections would keep a hundredth of what they remove."""
    return torch.promote_types(model.dtype, torch.float32)
