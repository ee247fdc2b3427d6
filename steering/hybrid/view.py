"""View: what a model shows of every row's next token, in the one pass over its last."""

from collections.abc import Mapping
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from probes.site import Site


class View(NamedTuple):
    """What one model of a hybrid can be asked."""

    logits: Float[Tensor, "row d_vocab"]
    """Of the next token, at temperature 1."""
    streams: Mapping[Site, Float[Tensor, "row d_model"]]
    """At the last token, for the sites that the hybrid reads."""
