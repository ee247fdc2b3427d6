"""fit_policy_gradient: vectors at several layers, learned from verifiable rewards while the model stays frozen."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.models.anatomy import find_anatomy
from lab.models.load import Model
from lab.post_training.reinforce import GrpoRun, Reward, reinforce
from lab.post_training.supervised import OnProgress
from lab.records.seeds import child_seed
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem, Verifier
from probes.capture.site import Site, hook_site
from steering.fits.examples import residual_norms
from steering.fits.fit import Fit, Rewarded
from steering.vector import SteeringVector

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
    """One vector a site, added at every token, by the post-training loop of `lab.post_training.reinforce`.

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
        """What is rewarded."""
        return "rewards"

    def fit(self, model: Model, sites: Sequence[Site], taught: Rewarded, *, seed: int) -> SteeringVector:
        """As `fit_policy_gradient`, from zero."""
        return fit_policy_gradient(
            model,
            sites,
            taught.problems,
            taught.reward,
            self.run,
            seed=seed,
            work=taught.work,
            on_progress=taught.on_progress,
        )


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
