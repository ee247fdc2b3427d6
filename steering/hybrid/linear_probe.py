"""LinearProbe: a yes or no that is read off a model's stream along one direction."""

from dataclasses import dataclass
from math import isfinite

from jaxtyping import Bool, Float
from torch import Tensor

from lab.errors import ModelError
from lab.models.load import Model
from probes.site import Site, check_site


@dataclass(frozen=True, slots=True, eq=False)
class LinearProbe:
    """A half-space of a model's stream at one site."""

    site: Site
    weight: Float[Tensor, " d_model"]
    bias: float

    def __post_init__(self) -> None:
        if not (isfinite(self.bias) and bool(self.weight.isfinite().all())):
            raise ModelError("a linear probe holds NaN or infinity: its fit diverged or its file is damaged")

    def opens(self, stream: Float[Tensor, "row d_model"]) -> Bool[Tensor, " row"]:
        """Whether stream @ weight + bias > 0, in the weight's dtype."""
        return stream.to(self.weight.dtype) @ self.weight.to(stream.device) + self.bias > 0


def require_width(probe: LinearProbe, model: Model) -> None:
    """ModelError unless `probe` is as wide as the model's stream, SiteError unless the model has its layer."""
    if len(probe.weight) != model.anatomy.d_model:
        raise ModelError(
            f"a linear probe of width {len(probe.weight)} does not fit {model.name}, whose d_model is "
            f"{model.anatomy.d_model}: use the model it was fitted on"
        )
    check_site(model, probe.site)
