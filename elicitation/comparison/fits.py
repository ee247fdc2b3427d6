"""Entries: the fits that a comparison makes, each at a place and for a use."""

from dataclasses import dataclass, replace
from typing import TypeAlias

from elicitation.comparison.context import Ground
from probes.capture.site import Site
from steering.fits.fit import Fit, Taught
from steering.fits.fits import DecoderRows, MeanDifference
from steering.fits.gradient import FirstTokenGradient, TextGradient
from steering.fits.policy_gradient import PolicyGradient
from steering.gate import EVERYWHERE, Gate, WhileWriting

AnyFit: TypeAlias = Fit[Taught] | PolicyGradient
FIRST = WhileWriting((0,))
"""At the prompt's last token, from which the first token of the answer is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A way to find a vector, at a place, for a use."""

    name: str
    """Unique, and the name of its files."""
    label: str
    method: str
    fit: AnyFit
    sites: tuple[Site, ...]
    where: Gate

    @property
    def tokens(self) -> str:
        """The tokens at which it acts, in words."""
        return "every token" if self.where == EVERYWHERE else "first token"


def entries(ground: Ground) -> tuple[Entry, ...]:
    """All fits that are asked for, in the order of the methods; one a layer where its vectors have one site."""
    comparison = ground.comparison
    policy = PolicyGradient(replace(comparison.policy, max_new_tokens=comparison.max_new_tokens))
    each = [(site,) for site in ground.sites]
    listed: dict[str, tuple[str, AnyFit, list[tuple[Site, ...]], Gate]] = {
        "mean": ("difference of means", MeanDifference(), each, EVERYWHERE),
        "mean-first": ("difference of means", MeanDifference(), each, FIRST),
        "gradient": ("gradient on texts", TextGradient(comparison.fit, comparison.n_texts), each, EVERYWHERE),
        "gradient-first": ("gradient on disagreements", FirstTokenGradient(comparison.fit), each, FIRST),
        "policy": (f"policy gradient at {len(ground.policy_sites)} sites", policy, [ground.policy_sites], EVERYWHERE),
    }
    if ground.sae is not None:
        features = DecoderRows(ground.sae, comparison.n_features)
        listed["sae"] = (f"{comparison.n_features} SAE features", features, [(ground.sae.site,)], FIRST)
    found: list[Entry] = []
    for method in ground.methods:
        words, fit, places, where = listed[method]
        for sites in places:
            place = f", block {sites[0].layer}" if len(sites) == 1 else ""
            use = "every token" if where == EVERYWHERE else "first token"
            name = f"{method}-{sites[0].layer}" if places is each else method
            label = f"{words}{place}, {use}"
            found.append(Entry(name=name, label=label, method=method, fit=fit, sites=sites, where=where))
    return tuple(found)
