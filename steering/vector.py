"""SteeringVector: directions at sites, as a value to add, scale and compare; and vectors as long as another one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import cos, sin
from types import MappingProxyType
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, normalize, softplus

from lab.models.load import Model
from lab.records.errors import VectorError
from probes.capture.site import Site
from probes.sae.dictionary import Sae


@dataclass(frozen=True, eq=False, slots=True)
class SteeringVector:
    """A direction at one or more sites of a model, in fp32 on the CPU.

    Vectors form a vector space: `v + w`, `v - w`, `a * v` and `-v` act at every site, a site that only one of two has
    counts as zero in the other.

    >>> vector = el.SteeringVector({el.Site(1): torch.tensor([3.0, 4.0])}, {el.Site(1): 9.0}, "mine")
    >>> (2.0 * vector - vector == vector), vector.norms
    (True, {Site(layer=1, stream='resid_post'): 5.0})
    """

    directions: Mapping[Site, Float[Tensor, " d_model"]]
    residual_norms: Mapping[Site, float]
    """Mean L2 norm of the model's own residual stream at each site, to measure a dose against; NaN if unknown."""
    description: str
    """The fit that made it and from what, in a line."""

    def __post_init__(self) -> None:
        if not self.directions:
            raise VectorError("a steering vector without a site does nothing: want at least one direction")
        if set(self.directions) != set(self.residual_norms):
            raise VectorError(
                f"directions at {sorted(map(str, self.directions))} but residual norms at "
                f"{sorted(map(str, self.residual_norms))}: want the same sites (NaN where a norm is unknown)"
            )
        widths = {len(direction) for direction in self.directions.values()}
        if len(widths) > 1:
            raise VectorError(f"directions of widths {sorted(widths)}: want one width, the model's d_model")
        if not all(bool(direction.isfinite().all()) for direction in self.directions.values()):
            raise VectorError("a direction holds NaN or infinity: the fit diverged or the file is damaged")
        # Copies: a value must not change with the tensor it was made from, nor share memory between sites.
        given = self.directions
        copies = {site: given[site].detach().to("cpu", torch.float32, copy=True) for site in sorted(given)}
        object.__setattr__(self, "directions", MappingProxyType(copies))
        object.__setattr__(self, "residual_norms", MappingProxyType(dict(self.residual_norms)))

    @property
    def sites(self) -> tuple[Site, ...]:
        """In order of layer."""
        return tuple(self.directions)

    @property
    def d_model(self) -> int:
        """Width of the directions."""
        return len(self.directions[self.sites[0]])

    @property
    def norms(self) -> dict[Site, float]:
        """L2 norm of each direction."""
        return {site: float(direction.norm()) for site, direction in self.directions.items()}

    def __add__(self, other: "SteeringVector") -> "SteeringVector":
        if self.d_model != other.d_model:
            raise VectorError(
                f"widths {self.d_model} and {other.d_model} do not add: the vectors are of different models"
            )
        zero = torch.zeros(self.d_model)
        sites = {*self.directions, *other.directions}
        return SteeringVector(
            {site: self.directions.get(site, zero) + other.directions.get(site, zero) for site in sites},
            {**other.residual_norms, **self.residual_norms},
            f"({self.description}) + ({other.description})",
        )

    def __mul__(self, factor: float) -> "SteeringVector":
        return SteeringVector(
            {site: direction * factor for site, direction in self.directions.items()},
            self.residual_norms,
            f"{factor:g} * ({self.description})",
        )

    __rmul__ = __mul__

    def __neg__(self) -> "SteeringVector":
        return self * -1.0

    def __sub__(self, other: "SteeringVector") -> "SteeringVector":
        return self + -other

    def __eq__(self, other: object) -> bool:
        """Equal directions at equal sites; how they were found does not count."""
        if not isinstance(other, SteeringVector):
            return NotImplemented
        return self.directions.keys() == other.directions.keys() and all(
            torch.equal(direction, other.directions[site]) for site, direction in self.directions.items()
        )

    def __hash__(self) -> int:
        return hash((self.sites, tuple(self.norms.values())))


def random_like(vector: SteeringVector, generator: torch.Generator) -> SteeringVector:
    """Uniform directions on the spheres of `vector`'s norms, at its sites."""
    directions = {}
    for site, norm in vector.norms.items():
        noise = torch.randn(vector.d_model, generator=generator)
        directions[site] = noise * (norm / noise.norm())
    return SteeringVector(directions, vector.residual_norms, f"random, norm-matched to ({vector.description})")


def norm_matched(control: SteeringVector, vector: SteeringVector) -> SteeringVector:
    """`control` stretched to the norm of `vector` at each of its sites; VectorError where it is zero and cannot be."""
    if control.sites != vector.sites or not all(control.norms.values()):
        raise VectorError(
            f"a control at {', '.join(map(str, control.sites))} of norms {list(control.norms.values())} cannot be "
            f"stretched to a vector at {', '.join(map(str, vector.sites))}: want the same sites and a direction at each"
        )
    stretched = {
        site: direction * (vector.norms[site] / control.norms[site]) for site, direction in control.directions.items()
    }
    return SteeringVector(
        stretched, vector.residual_norms, f"{control.description}, norm-matched to ({vector.description})"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coefficient:
    """softplus(gelu(h W_in + b_in) . w_out + b_out), above 0 for every token; several may share the hidden layer."""

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
