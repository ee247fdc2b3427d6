"""Controls: vectors found in the same way from what cannot help, and as long as the vector that they control for."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.examples import Completions, Disagreements
from steering.fits.fits import mean_difference
from steering.fits.gradient import Category, GradientFit, fit_gradients
from steering.vector import SteeringVector


def random_like(vector: SteeringVector, generator: torch.Generator) -> SteeringVector:
    """Uniform directions on the spheres of `vector`'s norms, at its sites."""
    directions = {}
    for site, norm in vector.norms.items():
        noise = torch.randn(vector.d_model, generator=generator)
        directions[site] = noise * (norm / noise.norm())
    return SteeringVector(directions, vector.residual_norms, f"random, norm-matched to ({vector.description})")


@dataclass(frozen=True, slots=True)
class NormMatched:
    """A random direction: what any push of this length does."""


@dataclass(frozen=True, slots=True)
class ShuffledLabels:
    """The same contexts with their targets permuted: what fitting these texts does, without what they teach."""

    disagreements: Disagreements


@dataclass(frozen=True, slots=True)
class WrongDomain:
    """Examples of another task: what a vector does that teaches something else."""

    examples: Disagreements | Completions


@dataclass(frozen=True, slots=True)
class Placebo:
    """Examples from a pair whose second model was not tuned: what fitting the scatter between two models does."""

    examples: Disagreements | Completions


Control: TypeAlias = NormMatched | ShuffledLabels | WrongDomain | Placebo


def fit_controls(
    model: Model, vector: SteeringVector, controls: Mapping[str, Control], fit: GradientFit, *, seed: int
) -> dict[str, SteeringVector]:
    """A vector for each control, of `vector`'s norm at its one site; those with examples are fitted in one loop.

    Raises VectorError where a control has no example, and for a control that has no length to be stretched.
    """
    (site,) = vector.sites
    table: dict[str, Category] = {}
    drawn: dict[str, SteeringVector] = {}
    for name, control in controls.items():
        generator = torch_generator(seed, "control", name)
        match control:
            case NormMatched():
                drawn[name] = random_like(vector, generator)
            case ShuffledLabels(disagreements=disagreements):
                examples = shuffled_targets(disagreements, generator)
                table[name] = Category(
                    examples=examples, generator=generator, description="gradient on shuffled labels"
                )
            case WrongDomain(examples=examples):
                table[name] = Category(examples=examples, generator=generator, description="gradient on another task")
            case Placebo(examples=examples):
                table[name] = Category(examples=examples, generator=generator, description="gradient on a placebo pair")
            case never:
                assert_never(never)
    fitted = fit_gradients(model, site, table, fit) if table else {}
    frequency_matched = {name: norm_matched(control, vector) for name, control in fitted.items()}
    return {name: (drawn | frequency_matched)[name] for name in controls}


def shuffled_targets(disagreements: Disagreements, generator: torch.Generator) -> Disagreements:
    """The same contexts and the same targets, in another pairing."""
    order = torch.randperm(len(disagreements.targets), generator=generator).to(disagreements.targets.device)
    return disagreements._replace(targets=disagreements.targets[order])


def shuffled_difference(
    site: Site,
    positive: Float[Tensor, "positive d_model"],
    negative: Float[Tensor, "negative d_model"],
    generator: torch.Generator,
) -> SteeringVector:
    """The difference of means between two sets of the same sizes, drawn from both without regard to their sides."""
    both = torch.cat([positive, negative])
    order = torch.randperm(len(both), generator=generator).to(both.device)
    first, second = both[order[: len(positive)]], both[order[len(positive) :]]
    return mean_difference(site, first, second, description="difference of means, shuffled labels")


def norm_matched(control: SteeringVector, vector: SteeringVector) -> SteeringVector:
    """`control` stretched to the norm of `vector` at each of its sites; VectorError where it is zero and cannot be."""
    if control.sites != vector.sites or not all(control.norms.values()):
        raise VectorError(
            f"a control at {', '.join(map(str, control.sites))} of norms {list(control.norms.values())} cannot be "
            f"stretched to a vector at {', '.join(map(str, vector.sites))}: want the same sites and a direction at each"
        )
    stretched = {
        site: direction * (vector.norms[site] / control.norms[site]) for site, direction in control.directions.items()
    }
    return SteeringVector(
        stretched, vector.residual_norms, f"{control.description}, norm-matched to ({vector.description})"
    )
