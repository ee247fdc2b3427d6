"""fit_on: the vector that a method finds in lessons, whatever they teach."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from elicitation.comparison.config import Method
from elicitation.comparison.context import Ground
from elicitation.comparison.training_pairs import MAX_DISAGREEMENTS, TrainingPairs, some_rows
from elicitation.study.disagreements import contexts, first_token_activations
from lab.models.load import Model
from lab.models.padding import left_padded
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from lab.scoring.scores import trace_rows
from probes.capture.site import Site
from probes.sae.dictionary import Sae
from steering.fits.examples import Completions
from steering.fits.gradient import fit_gradient
from steering.fits.mean_difference import mean_difference
from steering.fits.sae_decoder import sae_decoder
from steering.gate import EVERYWHERE, Gate, WhileWriting
from steering.vector import SteeringVector

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
            yield from at_each(ground, "gradient-first", "gradient on disagreements", FIRST)
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


def fit_on(ground: Ground, entry: Entry, taught: TrainingPairs) -> SteeringVector:
    """The vector of `entry` in `taught`. Raises VectorError, with the reason, where there is nothing to learn from."""
    model, comparison = ground.context.base, ground.comparison
    (site,) = entry.sites
    draws, steps = (torch_generator(comparison.seed, name) for name in ("examples", "fit"))
    match entry.method:
        case "mean" | "mean-first":
            positive, negative = openings(model, site, taught)
            description = (
                f"difference of means after the first token: {len(positive)} and {len(negative)}, {taught.description}"
            )
            return mean_difference(site, positive, negative, description=description)
        case "gradient":
            texts = some_rows(taught.positive, comparison.n_texts, draws)
            require(texts.height, taught)
            description = f"gradient on {texts.height} completions, {taught.description}"
            return fit_gradient(
                model, site, completions(model, texts, taught), comparison.fit, steps, description=description
            )
        case "gradient-first":
            opening = some_rows(taught.decided.filter(pl.col("position") == 0), MAX_DISAGREEMENTS, draws)
            require(opening.height, taught)
            description = f"gradient on {opening.height} disagreements at the first token, {taught.description}"
            examples = contexts(model, opening, taught.decided_in, taught.problems)
            return fit_gradient(model, site, examples, comparison.fit, steps, description=description)
        case "sae":
            assert ground.sae is not None, "without an SAE its method is not listed"
            return from_features(ground.sae, *openings(model, site, taught), n=comparison.n_features)
        case "policy":
            raise AssertionError("rewards, and no lessons, teach the policy gradient")


def require(n: int, taught: TrainingPairs) -> None:
    """VectorError where there is no example."""
    if not n:
        raise VectorError(f"nothing to learn from: no such text or decision among those {taught.description}")


def openings(model: Model, site: Site, taught: TrainingPairs) -> tuple[Float[Tensor, "_ d"], Float[Tensor, "_ d"]]:
    """Streams just after the first token of the positive and of the negative traces."""
    positive, negative = (
        first_token_activations(model, site, {"side": side}, taught.problems)[0]
        for side in (taught.positive, taught.negative)
    )
    if not (len(positive) and len(negative)):
        raise VectorError(
            f"{len(positive)} and {len(negative)} traces {taught.description}: want one at least on either side; "
            "draw more training traces"
        )
    return positive, negative


def completions(model: Model, texts: pl.DataFrame, taught: TrainingPairs) -> Completions:
    """Traces as examples of a fit at every token."""
    rows = trace_rows(model, texts, taught.problems)
    padded = left_padded(model, [row.context + row.completion for row in rows])
    lengths = torch.tensor([len(row.completion) for row in rows], device=model.device)
    return Completions(padded.tokens, padded.mask, lengths)


@torch.inference_mode()
def from_features(
    sae: Sae, positive: Float[Tensor, "_ d_model"], negative: Float[Tensor, "_ d_model"], *, n: int
) -> SteeringVector:
    """The `n` features whose mean activations differ most between the sides, by the length that their decoder rows then
    have, each at the dose of that difference."""
    device = sae.W_dec.device
    means = [sae.encode(side.to(device)).float().mean(dim=0) for side in (positive, negative)]
    difference = means[0] - means[1]
    lengths = difference.abs() * sae.W_dec.float().norm(dim=-1)
    top = lengths.topk(min(n, sae.d_sae)).indices.tolist()
    norm = float(torch.cat([positive, negative]).norm(dim=-1).mean())
    return sae_decoder(sae, {feature: float(difference[feature]) for feature in top}, residual_norm=norm)
