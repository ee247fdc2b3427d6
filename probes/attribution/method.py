"""Method: how the effect of a feature is found, as values."""

from dataclasses import dataclass
from typing import TypeAlias

from lab.errors import EstimateError


@dataclass(frozen=True, slots=True)
class Ablation:
    """Exact: what is lost when one feature is set to zero at one place, all else kept as it was at the site."""


@dataclass(frozen=True, slots=True)
class JointAblation:
    """Exact: what is lost when one feature is set to zero at all places of the text at once.

    Effects at several places do not add up exactly, because the blocks above are not linear.
    """


@dataclass(frozen=True, slots=True)
class Gradient:
    """First order: the activation times the gradient of the contrast with respect to it."""


@dataclass(frozen=True, slots=True)
class Integrated:
    """The activation times the mean gradient while all features of the text grow together from zero.

    Integrated gradients (Sundararajan, Taly and Yan 2017) with a baseline of no features. What the SAE does not
    explain, and its b_dec, stay in the stream all the way. The effects sum to what all features add together, up to the
    error of the quadrature: Gauss-Legendre in the square root of the share of the features, because the norms above the
    site turn the stream fastest where there is little of it.
    """

    n_steps: int = 64

    def __post_init__(self) -> None:
        if self.n_steps < 1:
            raise EstimateError(f"integrated gradients in {self.n_steps} steps: want at least 1, such as 64")


Method: TypeAlias = Ablation | JointAblation | Gradient | Integrated


def method_name(method: Method) -> str:
    """As tables write it."""
    match method:
        case Ablation():
            return "ablation"
        case JointAblation():
            return "joint ablation"
        case Gradient():
            return "gradient"
        case Integrated():
            return "integrated"
