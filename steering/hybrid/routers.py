"""Routers: when a token is not left to the base model alone."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf, isfinite

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.pair import ModelPair
from lab.records.errors import DecodingError, ModelError
from lab.records.seeds import uniforms
from probes.capture.site import Site, check_site
from probes.taxonomy.taxonomy import Taxonomy, require_fit
from steering.hybrid.hybrid import Moment, Reads, Router

# Keeps the router's random numbers apart from those that choose tokens.
ROUTER_KEY = np.uint64(0xA5A5A5A5A5A5A5A5)


@dataclass(frozen=True, slots=True)
class Never(Router):
    """Every token is the base model's."""

    @property
    def is_shut(self) -> bool:
        return True

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return _everywhere(now, False)


@dataclass(frozen=True, slots=True)
class Always(Router):
    """No token is left to the base model alone."""

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return _everywhere(now, True)


@dataclass(frozen=True, slots=True)
class AtSteps(Router):
    """The given tokens of every completion, counted from 0: a schedule fixed in advance."""

    steps: tuple[int, ...]

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return _everywhere(now, now.step in self.steps)


@dataclass(frozen=True, slots=True)
class AtRandom(Router):
    """Each token with the same probability, independent of everything."""

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise DecodingError(f"a router at rate {self.rate}: want a probability between 0 and 1")

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return _at_rate(now, self.rate)


@dataclass(frozen=True, slots=True)
class Disagreement(Router):
    """The tokens at which base and tuned model would, greedily, write different ones."""

    @property
    def reads(self) -> Reads:
        """The tuned model's logits."""
        return Reads(tuned={})

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return now.base.logits.argmax(dim=-1) != now.asked.logits.argmax(dim=-1)


@dataclass(frozen=True, slots=True)
class Reranked(Router):
    """The tokens at which the two would differ, and the tuned model's is among the base model's first choices.

    Those that the tuned model takes from further down are left alone: in the terms of arXiv 2605.06241 they are
    shifted, not reranked.
    """

    top: int = 5
    """How many first choices."""

    @property
    def reads(self) -> Reads:
        """The tuned model's logits."""
        return Reads(tuned={})

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        """Where some of the base's choices, but fewer than `top`, stand before the tuned model's first one."""
        wanted = now.base.logits.gather(-1, now.asked.logits.argmax(dim=-1, keepdim=True))
        ahead = (now.base.logits > wanted).sum(dim=-1)
        return (ahead > 0) & (ahead < self.top)


@dataclass(frozen=True, slots=True)
class Scheduled(Router):
    """Each token at random, with a probability of its own for each step of the completion; the last one goes on."""

    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise DecodingError(
                f"a router at rates {list(self.rates)}: want at least one, and probabilities between 0 and 1"
            )

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return _at_rate(now, self.rates[min(now.step, len(self.rates) - 1)])


@dataclass(frozen=True, slots=True)
class EntropyAbove(Router):
    """The tokens at which the base model's own next-token entropy, at temperature 1, is above a bound."""

    nats: float

    def __post_init__(self) -> None:
        if not 0 <= self.nats < inf:
            raise DecodingError(f"a router at an entropy of {self.nats} nats: want a finite number from 0 on")

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return torch.special.entr(now.base.logits.float().softmax(dim=-1)).sum(dim=-1) > self.nats


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


@dataclass(frozen=True, slots=True)
class BaseProbe(Router):
    """The tokens at which a linear probe on the base model's own stream at its last token says so."""

    probe: LinearProbe

    @property
    def reads(self) -> Reads:
        """The stream that the probe was fitted on."""
        return Reads(base={self.probe.site: 1})

    def placed(self, pair: ModelPair) -> "BaseProbe":
        """With the probe on the base model's device; ModelError or SiteError where it is of another model."""
        if len(self.probe.weight) != pair.base.anatomy.d_model:
            raise ModelError(
                f"a linear probe of width {len(self.probe.weight)} does not fit {pair.base.name}, whose d_model is "
                f"{pair.base.anatomy.d_model}: use the model it was fitted on"
            )
        check_site(pair.base, self.probe.site)
        return BaseProbe(replace(self.probe, weight=self.probe.weight.to(pair.base.device)))

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        return self.probe.opens(now.base.streams[self.probe.site])


@dataclass(frozen=True, slots=True)
class InCategories(Router):
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

    @property
    def reads(self) -> Reads:
        """The stream that the taxonomy was learned from."""
        return Reads(tuned={self.taxonomy.site: 1})

    def placed(self, pair: ModelPair) -> "InCategories":
        """With the taxonomy on the tuned model's device; ModelError where it is of another model."""
        require_fit(self.taxonomy, pair.tuned)
        return replace(self, taxonomy=self.taxonomy.to(pair.tuned.device))

    def category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"]:
        """The tuned model's."""
        return self.taxonomy.category(now.asked.streams[self.taxonomy.site][rows])

    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        category = self.taxonomy.category(now.asked.streams[self.taxonomy.site])
        return torch.isin(category, torch.tensor(sorted(self.categories), dtype=category.dtype, device=category.device))


ROUTERS: Mapping[str, type[Router]] = {
    "never": Never,
    "always": Always,
    "at-steps": AtSteps,
    "at-random": AtRandom,
    "disagreement": Disagreement,
    "reranked": Reranked,
    "scheduled": Scheduled,
    "entropy-above": EntropyAbove,
    "base-probe": BaseProbe,
    "in-categories": InCategories,
}
"""Every kind by its name."""


def _everywhere(now: Moment, routed: bool) -> Bool[Tensor, " row"]:
    return torch.full((len(now.keys),), routed, dtype=torch.bool, device=now.base.logits.device)


def _at_rate(now: Moment, rate: float) -> Bool[Tensor, " row"]:
    return torch.from_numpy(uniforms(now.keys ^ ROUTER_KEY, now.step) < rate).to(now.base.logits.device)
