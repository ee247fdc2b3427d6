"""Routers: which tokens of a hybrid are not left to the base model."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt64
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import DecodingError, ModelError
from lab.records.seeds import uniforms
from probes.capture.site import Site, check_site
from probes.taxonomy.taxonomy import Taxonomy


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


class View(NamedTuple):
    """What one model of a hybrid can be asked."""

    logits: Float[Tensor, "row d_vocab"]
    """Of the next token, at temperature 1."""
    streams: Mapping[Site, Float[Tensor, "row d_model"]]
    """At the last token, for the sites that the hybrid reads."""


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


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Each token at random, with a probability of its own for each step of the completion; the last one goes on."""

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise DecodingError(
                f"a router at rates {list(self.rates)}: want at least one, and probabilities between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class EntropyAbove:
    """The tokens at which the base model's own next-token entropy, at temperature 1, is above a bound."""

    nats: float

    def __post_init__(self) -> None:
        if not 0 <= self.nats < inf:
            raise DecodingError(f"a router at an entropy of {self.nats} nats: want a finite number from 0 on")


@dataclass(frozen=True, slots=True)
class BaseProbe:
    """The tokens at which a linear probe on the base model's own stream at its last token says so."""

    probe: LinearProbe


@dataclass(frozen=True, slots=True)
class InCategories:
    """The tokens at which the tuned model's stream at its last token falls in one of the given categories."""

    taxonomy: Taxonomy
    """Learned from the tuned model's stream."""
    categories: frozenset[int]

    def __post_init__(self) -> None:
        if beyond := sorted(set(self.categories) - set(range(self.taxonomy.n_categories))):
            raise DecodingError(
                f"a router at categories {beyond} of a taxonomy of {self.taxonomy.n_categories}: want 0 to "
                f"{self.taxonomy.n_categories - 1}"
            )


Router: TypeAlias = (
    Never | Always | AtSteps | AtRandom | Disagreement | Reranked | Scheduled | EntropyAbove | BaseProbe | InCategories
)
"""When a token is not left to the base model alone."""

# Keeps the router's random numbers apart from those that choose tokens.
ROUTER_KEY = np.uint64(0xA5A5A5A5A5A5A5A5)


def asks_tuned(router: Router) -> bool:
    """Whether the router reads the tuned model while the hybrid writes."""
    return isinstance(router, Disagreement | Reranked | InCategories)


def route(
    router: Router,
    *,
    step: int,
    keys: UInt64[np.ndarray, " row"],
    base: View,
    tuned: View | None,
) -> Bool[Tensor, " row"]:
    """True for the rows whose next token is routed away from the base model.

    The views hold the streams that the router reads, and that of the tuned model is there if the router asks it.
    """
    rows, device = len(keys), base.logits.device
    match router:
        case Never():
            return torch.zeros(rows, dtype=torch.bool, device=device)
        case Always():
            return torch.ones(rows, dtype=torch.bool, device=device)
        case AtSteps(steps=steps):
            return torch.full((rows,), step in steps, dtype=torch.bool, device=device)
        case AtRandom(rate=rate):
            return torch.from_numpy(uniforms(keys ^ ROUTER_KEY, step) < rate).to(device)
        case Scheduled(rates=rates):
            rate = rates[min(step, len(rates) - 1)]
            return torch.from_numpy(uniforms(keys ^ ROUTER_KEY, step) < rate).to(device)
        case EntropyAbove(nats=nats):
            return torch.special.entr(base.logits.float().softmax(dim=-1)).sum(dim=-1) > nats
        case BaseProbe(probe=probe):
            return probe.opens(base.streams[probe.site])
        case Disagreement():
            assert tuned is not None, "the hybrid opens the tuned model for a router that asks it"
            return base.logits.argmax(dim=-1) != tuned.logits.argmax(dim=-1)
        case Reranked(top=top):
            assert tuned is not None, "the hybrid opens the tuned model for a router that asks it"
            wanted = base.logits.gather(-1, tuned.logits.argmax(dim=-1, keepdim=True))
            ahead = (base.logits > wanted).sum(dim=-1)
            return (ahead > 0) & (ahead < top)
        case InCategories(taxonomy=taxonomy, categories=categories):
            assert tuned is not None, "the hybrid opens the tuned model for a router that asks it"
            category = taxonomy.category(tuned.streams[taxonomy.site])
            return torch.isin(category, torch.tensor(sorted(categories), dtype=category.dtype, device=device))
