"""A vector fitted by gradient: it makes chosen next tokens likely at the positions where it will be used."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.errors import VectorError
from lab.models.load import Model
from lab.models.padding import token_positions
from probes.capture import capture
from probes.site import Site, hook_site
from steering.vector import SteeringVector


class Decisions(NamedTuple):
    """Moments at which one token should have been written: contexts, and that token."""

    tokens: Int[Tensor, "decision pos"]
    """Contexts, padded on the left."""
    mask: Bool[Tensor, "decision pos"]
    targets: Int[Tensor, " decision"]


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientFit:
    """How to look for the vector."""

    n_steps: int = 100
    batch_size: int = 64
    learning_rate: float = 0.1
    """Adam's rate, in units of the mean residual norm divided by the square root of d_model."""
    max_dose: float = 1.0
    """Cap on the vector's norm, in units of the mean residual norm at the site."""


@torch.enable_grad()
def fit_gradient(
    model: Model, site: Site, decisions: Decisions, fit: GradientFit, generator: torch.Generator, *, how: str
) -> SteeringVector:
    """Minimises the mean cross-entropy of the targets with the vector added at the last position of each context.

    That is exactly how a hybrid uses it: the edited position is the one whose next token is at stake, and no earlier
    one. Starts from zero, is projected back onto the ball of `max_dose` after every step of Adam, and the model stays
    frozen. Raises VectorError where there is no decision to learn from, or the loss is not finite.
    """
    n_decisions = len(decisions.targets)
    if n_decisions == 0:
        raise VectorError(
            "no decision to fit a vector on: on these problems the two models never disagree; draw more fitting traces"
        )
    norms = [
        capture(model, tokens, mask, [site])[site][:, -1].float().norm(dim=-1)
        for tokens, mask in zip(
            decisions.tokens.split(fit.batch_size), decisions.mask.split(fit.batch_size), strict=True
        )
    ]
    scale = float(torch.cat(norms).mean())
    width = model.anatomy.d_model
    direction = torch.zeros(width, device=model.device, requires_grad=True)
    optimiser = torch.optim.Adam([direction], lr=fit.learning_rate * scale / width**0.5)

    def add(stream: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        edited = stream.clone()
        edited[:, -1] += direction.to(stream.dtype)
        return edited

    handle = hook_site(model, site, add)
    try:
        for _ in range(fit.n_steps):
            chosen = torch.randint(n_decisions, (min(fit.batch_size, n_decisions),), generator=generator)
            loss = target_loss(model, decisions, chosen.to(model.device))
            if not bool(loss.isfinite()):
                raise VectorError(
                    f"the loss became {float(loss.detach())}: lower the learning rate or use --dtype float32"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                direction *= min(1.0, fit.max_dose * scale / max(float(direction.norm()), 1e-12))
    finally:
        handle.remove()
    return SteeringVector({site: direction.detach()}, {site: scale}, how)


def target_loss(model: Model, decisions: Decisions, chosen: Int[Tensor, " chosen"]) -> Float[Tensor, ""]:
    """Mean cross-entropy, in nats, of the chosen decisions' targets."""
    # The longest context of the batch, not of all decisions, sets the width.
    width = int(decisions.mask[chosen].sum(dim=1).max())
    tokens, mask = decisions.tokens[chosen][:, -width:], decisions.mask[chosen][:, -width:]
    logits = model.network(
        input_ids=tokens,
        attention_mask=mask.long(),
        position_ids=token_positions(mask),
        use_cache=False,
        logits_to_keep=1,
    ).logits[:, -1]
    return torch.nn.functional.cross_entropy(logits.float(), decisions.targets[chosen])
