"""Routers: which tokens of a hybrid are not left to the base model."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt64
from torch import Tensor

from lab.errors import DecodingError
from lab.seeds import uniforms


@dataclass(frozen=True, slots=True)
class Never:
    """Every token is the base model's."""


@dataclass(frozen=True, slots=True)
class Always:
    """No token is left to the base model alone."""


@dataclass(frozen=True, slots=True)
class AtSteps:
    """The given tokens of every completion, counted from 0: a schedule fixed in advance."""

    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AtRandom:
    """Each token with the same probability, independent of everything."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise DecodingError(f"a router at rate {self.rate}: want a probability between 0 and 1")


@dataclass(frozen=True, slots=True)
class Disagreement:
    """The tokens at which base and tuned model would, greedily, write different ones."""


@dataclass(frozen=True, slots=True)
class Reranked:
    """The tokens at which the two would differ, and the tuned model's is among the base model's first choices.

    Those that the tuned model takes from further down are left alone: in the terms of arXiv 2605.06241 they are
    shifted, not reranked.
    """

    top: int = 5
    """How many first choices."""


Router = Never | Always | AtSteps | AtRandom | Disagreement | Reranked

# Keeps the router's random numbers apart from those that choose tokens.
ROUTER_KEY = np.uint64(0xA5A5A5A5A5A5A5A5)


def asks_tuned(router: Router) -> bool:
    """Whether the router reads the tuned model while the hybrid writes."""
    return isinstance(router, Disagreement | Reranked)


def route(
    router: Router,
    *,
    step: int,
    keys: UInt64[np.ndarray, " row"],
    base_logits: Float[Tensor, "row d_vocab"],
    tuned_logits: Float[Tensor, "row d_vocab"] | None,
) -> Bool[Tensor, " row"]:
    """True for the rows whose next token is routed away from the base model."""
    rows, device = len(keys), base_logits.device
    match router:
        case Never():
            return torch.zeros(rows, dtype=torch.bool, device=device)
        case Always():
            return torch.ones(rows, dtype=torch.bool, device=device)
        case AtSteps(steps=steps):
            return torch.full((rows,), step in steps, dtype=torch.bool, device=device)
        case AtRandom(rate=rate):
            return torch.from_numpy(uniforms(keys ^ ROUTER_KEY, step) < rate).to(device)
        case Disagreement():
            assert tuned_logits is not None, "the hybrid opens the tuned model for a router that asks it"
            return base_logits.argmax(dim=-1) != tuned_logits.argmax(dim=-1)
        case Reranked(top=top):
            assert tuned_logits is not None, "the hybrid opens the tuned model for a router that asks it"
            wanted = base_logits.gather(-1, tuned_logits.argmax(dim=-1, keepdim=True))
            ahead = (base_logits > wanted).sum(dim=-1)
            return (ahead > 0) & (ahead < top)
