"""Coefficient: a small network that reads a stream and says how much of a direction to add there."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import gelu, softplus

from lab.errors import VectorError


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
