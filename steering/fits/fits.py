"""Fits: every way to find a steering vector by its name; here are all but the descents of `steering.fits.gradient`.

A difference of means is the classic vector; decoder rows of an SAE make one of features that a person can look at; and
a policy gradient learns vectors at several layers from verifiable rewards, while the model stays frozen.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.models.anatomy import find_anatomy
from lab.models.load import Model
from lab.post_training.trainers import GrpoRun, OnProgress, Reward, reinforce
from lab.records.errors import VectorError
from lab.records.seeds import child_seed
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem, Verifier
from probes.capture.site import Site, hook_site
from probes.sae.dictionary import Sae
from steering.fits.fit import Fit, Rewarded, Taught, residual_norms
from steering.fits.gradient import FirstTokenGradient, TextGradient
from steering.vector import SteeringVector


def mean_difference(
    site: Site,
    positive: Float[Tensor, "positive d_model"],
    negative: Float[Tensor, "negative d_model"],
    *,
    description: str,
) -> SteeringVector:
    """mean(positive) - mean(negative) at `site` (contrastive activation addition, Panickssery et al. 2023).

    The residual norm is the mean over both sets. Raises VectorError for an empty set.
    """
    if not len(positive) or not len(negative):
        raise VectorError(
            f"difference of means from {len(positive)} positive and {len(negative)} negative activations: "
            "want at least one of each; draw more traces"
        )
    norms = (positive.float().norm(dim=-1).sum() + negative.float().norm(dim=-1).sum()) / (
        len(positive) + len(negative)
    )
    return SteeringVector(
        {site: positive.float().mean(dim=0) - negative.float().mean(dim=0)}, {site: float(norms)}, description
    )


@dataclass(frozen=True, slots=True)
class MeanDifference(Fit[Taught]):
    """The difference of the two sides' mean streams just after the first token."""

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """Of the one site; no random number is drawn."""
        del seed
        (site,) = sites
        positive, negative = taught.sides(model, site)
        found = f"difference of means after the first token: {len(positive)} and {len(negative)}, {taught.description}"
        return mean_difference(site, positive, negative, description=found)


def sae_decoder(sae: Sae, doses: Mapping[int, float], *, residual_norm: float) -> SteeringVector:
    """The sum over features i of doses[i] * W_dec[i], at the site of `sae`.

    A dose is in units of the feature's activation: added everywhere, the vector writes what the feature writes when it
    is that active. `residual_norm` is that of the model at the site (`residual_norms`), NaN if unknown. Raises
    VectorError for no feature, or for one that the SAE does not have.
    """
    beyond = sorted(feature for feature in doses if not 0 <= feature < sae.d_sae)
    if beyond or not doses:
        raise VectorError(
            f"features {beyond or 'none'} of SAE {sae.name}, which has {sae.d_sae}: want at least one, from 0 to "
            f"{sae.d_sae - 1}"
        )
    features = sorted(doses)
    weights = torch.tensor([doses[feature] for feature in features], device=sae.W_dec.device)
    direction = weights @ sae.W_dec[features].float()
    parts = ", ".join(f"{doses[feature]:g} x {feature}" for feature in features)
    return SteeringVector({sae.site: direction}, {sae.site: residual_norm}, f"decoder rows of SAE {sae.name}: {parts}")


@dataclass(frozen=True, slots=True, eq=False)
class DecoderRows(Fit[Taught]):
    """The features of an SAE that tell the two sides apart, each at the dose of the difference of its means."""

    sae: Sae
    n_features: int = 8

    def fit(self, model: Model, sites: Sequence[Site], taught: Taught, *, seed: int) -> SteeringVector:
        """At the SAE's site; no random number is drawn."""
        del seed
        (site,) = sites
        return self.of_sides(*taught.sides(model, site))

    @torch.inference_mode()
    def of_sides(
        self, positive: Float[Tensor, "positive d_model"], negative: Float[Tensor, "negative d_model"]
    ) -> SteeringVector:
        """Of the features whose means differ most, by the length that their decoder rows then have."""
        sae = self.sae
        means = [sae.encode(side.to(sae.W_dec.device)).float().mean(dim=0) for side in (positive, negative)]
        difference = means[0] - means[1]
        lengths = difference.abs() * sae.W_dec.float().norm(dim=-1)
        top = lengths.topk(min(self.n_features, sae.d_sae)).indices.tolist()
        norm = float(torch.cat([positive, negative]).norm(dim=-1).mean())
        return sae_decoder(sae, {feature: float(difference[feature]) for feature in top}, residual_norm=norm)


N_MEASURED = 64
"""Problems on which the residual norms are measured."""


def answer_reward(verify: Verifier) -> Reward:
    """1 for a right final answer, else 0, whatever stands before it."""
    return lambda problem, completion: float(verify(problem, completion).answer_correct)


def fit_policy_gradient(
    model: Model,
    sites: Sequence[Site],
    problems: Sequence[Problem],
    reward: Reward,
    run: GrpoRun,
    *,
    seed: int,
    work: Path,
    start: SteeringVector | None = None,
    on_progress: OnProgress = lambda *_: None,
) -> SteeringVector:
    """One vector a site, added at every token, by the post-training loop of `lab.post_training.trainers.reinforce`.

    Bias-only adaptation (Sinii et al. 2025): GRPO with nothing to train but the vectors, from zero or from `start`, so
    that a fit can go on at a smaller rate; sites that `start` lacks begin at zero. Departure: a vector is learned in
    units of the site's mean residual norm divided by the square root of d_model, so that one learning rate serves sites
    whose streams differ in length; `run.learning_rate` is in these units. `problems` are used in the order given, and
    again when they run out. The model itself is not touched. Checkpoints go to `work`, and a run that was cut off goes
    on from the last one. `on_progress` is told steps just done, and steps in all. Raises SiteError for a layer out of
    range.
    """
    decoding = Decoding(temperature=run.temperature, max_new_tokens=run.max_new_tokens)
    norms = residual_norms(model, sites, problems[:N_MEASURED], decoding, seed=child_seed(seed, "residual norms"))
    units = {site: norm / model.anatomy.d_model**0.5 for site, norm in norms.items()}
    steered = with_shared_weights(model)
    nothing = torch.zeros(model.anatomy.d_model)
    known = {} if start is None else start.directions
    learned = {site: nn.Parameter((known.get(site, nothing) / units[site]).to(model.device)) for site in sites}
    # As parameters of the network they are what the trainer finds to train, and are in its checkpoints.
    steered.network.steering = nn.ParameterList(learned.values())
    for site in sites:
        add(steered, site, learned[site], units[site])
    reinforce(
        steered.network,
        model.tokenizer,
        problems,
        reward,
        run,
        seed=child_seed(seed, "policy gradient"),
        device=model.device,
        work=work,
        on_progress=on_progress,
    )
    return SteeringVector(
        {site: units[site] * vector.detach() for site, vector in learned.items()},
        norms,
        f"policy gradient on {model.name}, {run.n_steps} steps of {run.n_prompts} x {run.n_rollouts} rollouts"
        + ("" if start is None else f", from ({start.description})"),
    )


@dataclass(frozen=True, slots=True)
class PolicyGradient(Fit[Rewarded]):
    """Vectors under which the model's own completions earn more."""

    run: GrpoRun

    @property
    def learns_from(self) -> Literal["rewards"]:
        return "rewards"

    def fit(self, model: Model, sites: Sequence[Site], taught: Rewarded, *, seed: int) -> SteeringVector:
        """As `fit_policy_gradient`, from zero."""
        problems, reward, work, watch = taught
        return fit_policy_gradient(model, sites, problems, reward, self.run, seed=seed, work=work, on_progress=watch)


def with_shared_weights(model: Model) -> Model:
    """A second network on the very same weights: what is hooked, added or set to train in it is not in `model`."""
    weights = {id(weight): weight for weight in model.network.parameters()}
    network = copy.deepcopy(model.network, weights)
    return replace(model, network=network, anatomy=find_anatomy(network))


def add(model: Model, site: Site, vector: nn.Parameter, unit: float) -> None:
    """Adds `unit * vector` at every position for good; gradients reach `vector`."""

    def change(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return stream + (unit * vector).to(stream.dtype)

    hook_site(model, site, change)


FITS: Mapping[str, type[Fit[Taught]] | type[PolicyGradient]] = {
    "mean": MeanDifference,
    "gradient": TextGradient,
    "gradient-first": FirstTokenGradient,
    "policy": PolicyGradient,
    "sae": DecoderRows,
}
"""Every kind by its name."""
