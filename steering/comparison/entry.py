"""Entry: one fit of the comparison, with where its vector acts."""

from collections.abc import Iterator
from dataclasses import dataclass

from probes.site import Site
from steering.comparison.config import Method
from steering.comparison.ground import Ground
from steering.gate import EVERYWHERE, Gate, WhileWriting

FIRST = WhileWriting((0,))
"""At the prompt's last token, from which the first token of the answer is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A way to find a vector, at a place, for a use."""

    name: str
    """Unique, and the name of its files."""
    label: str
    method: Method
    sites: tuple[Site, ...]
    where: Gate

    @property
    def tokens(self) -> str:
        """The tokens at which it acts, in words."""
        return "every token" if self.where == EVERYWHERE else "first token"


def entries(ground: Ground) -> tuple[Entry, ...]:
    """All fits that are asked for, in the order of the methods."""
    return tuple(entry for method in ground.methods for entry in entries_of(ground, method))


def entries_of(ground: Ground, method: str) -> Iterator[Entry]:
    """The fits of one method; one a layer where its vectors have one site."""
    match method:
        case "mean":
            yield from at_each(ground, "mean", "difference of means", EVERYWHERE)
        case "mean-first":
            yield from at_each(ground, "mean-first", "difference of means", FIRST)
        case "gradient":
            yield from at_each(ground, "gradient", "gradient on texts", EVERYWHERE)
        case "gradient-first":
            yield from at_each(ground, "gradient-first", "gradient on decisions", FIRST)
        case "policy":
            label = f"policy gradient at {len(ground.policy_sites)} sites, every token"
            yield Entry(name="policy", label=label, method="policy", sites=ground.policy_sites, where=EVERYWHERE)
        case _:
            assert ground.sae is not None, "without an SAE its method is not listed"
            n, site = ground.comparison.n_features, ground.sae.site
            label = f"{n} SAE features, block {site.layer}, first token"
            yield Entry(name="sae", label=label, method="sae", sites=(site,), where=FIRST)


def at_each(ground: Ground, method: Method, words: str, where: Gate) -> Iterator[Entry]:
    """A fit at each of the comparison's sites."""
    use = "every token" if where == EVERYWHERE else "first token"
    for site in ground.sites:
        yield Entry(
            name=f"{method}-{site.layer}",
            label=f"{words}, block {site.layer}, {use}",
            method=method,
            sites=(site,),
            where=where,
        )
