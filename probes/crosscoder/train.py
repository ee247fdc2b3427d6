"""train: a crosscoder of two stores, by BatchTopK."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.records.errors import ModelError
from lab.records.seeds import child_seed, torch_generator
from probes.crosscoder.crosscoder import Crosscoder, Paired, batch_top_k

N_MEASURED = 32
"""Batches from which the streams' means and scales are taken."""
THRESHOLD_SHARE = 0.1
"""The threshold is a mean over this last share of the steps."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How a crosscoder is trained; raises ModelError for sizes that cannot be."""

    d_sae: int = 1024
    """How many latents."""
    k: int = 16
    """Latents above 0 at a token, on average over a batch."""
    n_steps: int = 600
    """Batches."""
    batch_size: int = 2048
    """Tokens of a batch."""
    learning_rate: float = 2e-3
    """Highest rate of Adam."""
    warmup_share: float = 0.05
    """Steps in which the learning rate rises from 0, as a share of all."""
    decay_share: float = 0.3
    """Steps in which it falls to 0 again, at the end."""
    dead_after: int = 30_000
    """A latent is dead once it was 0 at so many tokens running."""
    aux_weight: float = 1 / 32
    """Weight of the loss that lets dead latents learn what is left over; as Gao et al. 2024, section 2.4."""
    seed: int = 0
    """Decides weights and batches."""

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.d_sae or self.n_steps < 1 or self.batch_size < 2:
            raise ModelError(
                f"a crosscoder of {self.d_sae} latents, {self.k} at a token, in {self.n_steps} steps of "
                f"{self.batch_size} rows: want k from 1 to d_sae, at least 1 step, and 2 rows or more"
            )


def train(
    paired: Paired,
    training: Training,
    *,
    device: torch.device,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Crosscoder:
    """A crosscoder of the training problems of `paired`; equal inputs give equal bytes on one machine.

    BatchTopK (Bussmann, Leask and Nanda 2024) for crosscoders as in Minder et al. 2025 (2504.02922): of all latents of
    all rows of a batch, the k * batch with the largest activation times summed decoder norms are kept, and there is no
    L1 penalty, which makes shared latents look like one model's. Both models start with the same decoder row of the
    same length, and the encoder as its transpose; from unlike rows, a short training leaves even those of two models
    that hardly differ turned away from each other. Departures: each stream is centred and scaled to variance d_model
    (the means end in the biases); the threshold is the mean of the smallest kept value over the last steps, not a
    running mean; and at the end every latent is scaled so that its two decoder norms sum to 1, so that an activation
    is the length of what it writes. `on_progress` is told steps done, and steps in all. Raises as `Paired.batches`
    does, and ModelError where a stream does not vary, or training diverges.
    """
    mean, scale = (part.to(device) for part in _measured(paired, training))
    drawn = torch.randn(training.d_sae, mean.shape[1], generator=torch_generator(training.seed, "crosscoder"))
    weights = _Weights((nn.functional.normalize(drawn, dim=1) / 2).repeat(1, 2).to(device))
    optimiser = torch.optim.Adam(weights.parameters())
    idle = torch.zeros(training.d_sae, dtype=torch.int64, device=device)
    smallest: list[Float[Tensor, ""]] = []
    on_progress(0, training.n_steps)
    epochs = (paired.batches("training", training.batch_size, seed=training.seed, epoch=epoch) for epoch in count())
    for step, batch in enumerate(islice(chain.from_iterable(epochs), training.n_steps)):
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * _schedule(training, step)
        streams = ((batch.to(device) - mean) * scale[:, None]).flatten(1)
        latents = _latents(weights, streams, training.k)
        error = streams - latents.kept @ weights.W_dec - weights.b_dec
        loss = error.square().mean()
        dead = (idle >= training.dead_after).nonzero()[:, 0]
        if len(dead):
            loss = loss + training.aux_weight * _left_over(weights, latents, error.detach(), dead)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        idle = torch.where((latents.kept > 0).any(dim=0), 0, idle + len(batch))
        if step + 1 > training.n_steps * (1 - THRESHOLD_SHARE):
            smallest.append(latents.smallest)
        on_progress(step + 1, training.n_steps)
    threshold = torch.stack(smallest).mean()
    if not all(bool(part.isfinite().all()) for part in (threshold, *weights.parameters())):
        raise ModelError(
            f"training diverged at a learning rate of {training.learning_rate:g}: want finite weights; lower it"
        )
    return _finished(paired, weights, mean, scale, threshold)


class _Weights(nn.Module):
    """What is learned; the two models' parts side by side."""

    def __init__(self, directions: Float[Tensor, "d_sae d_both"]) -> None:
        super().__init__()
        d_sae, d_both = directions.shape
        self.W_enc = nn.Parameter(directions.T.contiguous())
        self.b_enc = nn.Parameter(directions.new_zeros(d_sae))
        self.W_dec = nn.Parameter(directions.clone())
        self.b_dec = nn.Parameter(directions.new_zeros(d_both))

    def lengths(self) -> Float[Tensor, " d_sae"]:
        """Summed norms of each latent's two decoder rows."""
        return self.W_dec.detach().unflatten(1, (2, -1)).norm(dim=2).sum(dim=1)


class _Latents(NamedTuple):
    found: Float[Tensor, "batch d_sae"]
    """Before the choice."""
    written: Float[Tensor, "batch d_sae"]
    """The same times the decoder norms, which the choice goes by."""
    kept: Float[Tensor, "batch d_sae"]
    smallest: Float[Tensor, ""]
    """Of `written`, among those kept."""


def _latents(weights: _Weights, streams: Float[Tensor, "batch d_both"], k: int) -> _Latents:
    found = torch.relu(streams @ weights.W_enc + weights.b_enc)
    written = found.detach() * weights.lengths()
    chosen = batch_top_k(written, k)
    smallest = torch.where(chosen & (written > 0), written, torch.inf).min()
    return _Latents(found, written, found * chosen, smallest)


def _left_over(
    weights: _Weights, latents: _Latents, error: Float[Tensor, "batch d_both"], dead: Int[Tensor, " dead"]
) -> Float[Tensor, ""]:
    """What the strongest dead latents leave of the error, as a share of it; d_model / 2 of them at a token."""
    chosen = batch_top_k(latents.written[:, dead], min(len(dead), max(1, error.shape[1] // 4)))
    guess = (latents.found[:, dead] * chosen) @ weights.W_dec[dead]
    return (error - guess).square().mean() / error.square().mean().clamp_min(1e-12)


def _measured(paired: Paired, training: Training) -> tuple[Float[Tensor, "2 d_model"], Float[Tensor, " 2"]]:
    """Mean of each stream, and what its distance from it is multiplied by, so that its square is d_model on average."""
    batches = paired.batches("training", training.batch_size, seed=child_seed(training.seed, "measured"))
    rows = torch.cat(list(islice(batches, N_MEASURED))).double()
    mean = rows.mean(dim=0)
    variance = (rows - mean).square().sum(dim=2).mean(dim=0)
    if not bool((variance > 0).all()):
        raise ModelError(f"a stream at {paired.site} is the same at all {len(rows)} rows: want more texts")
    return mean.float(), (paired.base.plan.d_model / variance).sqrt().float()


def _schedule(training: Training, step: int) -> float:
    """The learning rate at `step`, as a share of the highest: up from 0, level, and down to 0, by straight lines."""
    done = (step + 1) / training.n_steps
    rise = done / training.warmup_share if training.warmup_share else 1.0
    fall = (1 - step / training.n_steps) / training.decay_share if training.decay_share else 1.0
    return min(1.0, rise, fall)


@torch.no_grad()
def _finished(
    paired: Paired,
    weights: _Weights,
    mean: Float[Tensor, "2 d_model"],
    scale: Float[Tensor, " 2"],
    threshold: Float[Tensor, ""],
) -> Crosscoder:
    """With the means in the biases, and the decoder norms of every latent summing to 1."""
    shape, lengths = mean.shape, weights.lengths().clamp_min(1e-12)
    centre = (mean * scale[:, None]).flatten()
    return Crosscoder(
        site=paired.site,
        base_digest=paired.base.plan.model_digest,
        tuned_digest=paired.tuned.plan.model_digest,
        scale=scale,
        W_enc=(weights.W_enc * lengths).unflatten(0, shape),
        b_enc=(weights.b_enc - centre @ weights.W_enc) * lengths,
        W_dec=(weights.W_dec / lengths[:, None]).unflatten(1, shape),
        b_dec=(weights.b_dec + centre).unflatten(0, shape),
        threshold=threshold,
    )
