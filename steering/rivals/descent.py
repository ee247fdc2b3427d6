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

Shift: TypeAlias = Callable[[Int[Tensor, " row"]], Float[Tensor, "row d_model"]]
"""Rows of examples -> what is added to the stream in each; gradients pass."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Descent:
    """Sizes of one fit."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    """Of the vectors, at the start; it falls to 0 by half a cosine."""
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

    The loss is the mean cross-entropy of a batch's targets. The network learns at a tenth of the vectors' rate, with
    weight decay 0.01 and its gradient clipped to norm 1; vectors have neither, and no cap on their norm.
    Raises VectorError where the loss is not finite.
    """
    n_examples = len(likelihood.first)
    n_batches = math.ceil(n_examples / descent.batch_size)
    groups = [{"params": list(vectors), "lr": descent.learning_rate, "weight_decay": 0.0}]
    if network:
        groups.append({"params": list(network), "lr": descent.learning_rate / 10, "weight_decay": 0.01})
    optimiser = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, descent.n_epochs * n_batches)
    lowest, n_worse = math.inf, 0
    for _ in range(descent.n_epochs):
        total = 0.0
        for rows in torch.randperm(n_examples, generator=generator).split(descent.batch_size):
            rows = rows.to(likelihood.first.device)
            loss = likelihood.losses(rows, shift(rows)).sum() / likelihood.n_targets(rows)
            optimiser.zero_grad()
            loss.backward()
            if network:
                clip_grad_norm_(network, MOST_NORM)
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) / n_batches
        if not math.isfinite(total):
            raise VectorError(f"the loss became {total}: lower the learning rate or use --dtype float32")
        n_worse = 0 if total < lowest - LEAST_GAIN else n_worse + 1
        lowest = min(lowest, total)
        if n_worse >= descent.patience:
            break
