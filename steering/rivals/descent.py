"""descend: Adam over epochs of examples, as the rivals fit their vectors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from lab.errors import VectorError
from steering.fit.likelihood import Likelihood

LEAST_GAIN = 1e-3
"""Nats a token by which an epoch's loss must fall to count as better."""
MOST_NORM = 1.0
"""Longest gradient of a network."""
NETWORK_RATE, DECAY = 1e-2, 0.01
"""Of a network; published: rate 1e-3, for a hundred times as many steps."""

Shift: TypeAlias = Callable[[Int[Tensor, " row"]], Float[Tensor, "row d_model"]]
"""Rows of examples -> what is added to the stream in each; gradients pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """Sizes of one fit."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    """Of the vectors at the start, in units of the mean residual norm divided by the square root of d_model."""
    patience: int
    """Epochs without a better training loss, after which it ends."""


@torch.enable_grad()
def descend(
    likelihood: Likelihood,
    shift: Shift,
    vectors: Sequence[Tensor],
    descent: Descent,
    generator: torch.Generator,
    *,
    network: Sequence[Tensor] = (),
) -> None:
    """Changes `vectors`, and the tensors of a `network` if there is one, so that the targets become likely.

    The loss is the mean cross-entropy of a batch's targets, rates fall to 0 by half a cosine, and vectors have no cap
    on their norm. A network has weight decay, and its gradient is clipped to norm 1. Departure: the published rate of
    vectors is 1e-2 whatever the model; here it grows with the stream, so that one number serves models of any width.
    Raises VectorError where the loss is not finite.
    """
    n_examples = len(likelihood.first)
    n_batches = math.ceil(n_examples / descent.batch_size)
    last = likelihood.streams.last().float()
    rate = descent.learning_rate * float(last.norm(dim=1).mean()) / last.shape[1] ** 0.5
    groups = [{"params": list(vectors), "lr": rate, "weight_decay": 0.0}]
    if network:
        groups.append({"params": list(network), "lr": NETWORK_RATE, "weight_decay": DECAY})
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, descent.n_epochs * n_batches)
    lowest, n_worse = math.inf, 0
    for _ in range(descent.n_epochs):
        total, n_targets = 0.0, 0
        for rows in torch.randperm(n_examples, generator=generator).split(descent.batch_size):
            rows = rows.to(likelihood.first.device)
            loss, n = likelihood.losses(rows, shift(rows)).sum(), likelihood.n_targets(rows)
            optimiser.zero_grad()
            (loss / n).backward()
            if network:
                clip_grad_norm_(network, MOST_NORM)
            optimiser.step()
            schedule.step()
            total, n_targets = total + float(loss.detach()), n_targets + n
        mean = total / n_targets
        if not math.isfinite(mean):
            raise VectorError(f"the loss became {mean}: lower the learning rate or use --dtype float32")
        n_worse = 0 if mean < lowest - LEAST_GAIN else n_worse + 1
        lowest = min(lowest, mean)
        if n_worse >= descent.patience:
            break
