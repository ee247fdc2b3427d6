"""fit: a taxonomy of given size, learned from segments of some problems and stopped on those of others."""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import torch
from jaxtyping import Float
from torch import Tensor

from lab.records.errors import EstimateError
from lab.records.seeds import torch_generator
from probes.taxonomy.segments import Parts, SegmentMeans
from probes.taxonomy.taxonomy import Taxonomy, category_names, normalised, sparse

N_STARTS = 8
"""The best of so many is taken: from a single start two clusters are often found as one."""
N_ROUNDS = 30


def k_means(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    """Unit centres that lie nearest to `units` in cosine: spherical k-means (Dhillon and Modha 2001).

    Starts are drawn as by greedy k-means++ (Arthur and Vassilvitskii 2007): a further one with a probability that grows
    with its squared distance to the nearest before, and of a few so drawn the one that leaves the least distance.
    """
    found = [_settled(units, _spread(units, n_clusters, generator)) for _ in range(N_STARTS)]
    return max(found, key=lambda centres: float((units @ centres.T).amax(dim=1).sum()))


def _spread(
    units: Float[Tensor, "segment d_model"], n_clusters: int, generator: torch.Generator
) -> Float[Tensor, "cluster d_model"]:
    n_drawn = min(len(units), 2 + int(math.log(n_clusters)))
    chosen = [int(torch.randint(len(units), (1,), generator=generator))]
    distances = (2 - 2 * units @ units[chosen[0]]).clamp_min(0)
    while len(chosen) < n_clusters:
        # Where fewer differ than are wanted, all that is left is at 0.
        drawn = torch.multinomial(distances + 1e-9, n_drawn, generator=generator)
        left = torch.minimum(distances, (2 - 2 * units[drawn] @ units.T).clamp_min(0))
        best = int(left.sum(dim=1).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
    return units[chosen]


def _settled(
    units: Float[Tensor, "segment d_model"], centres: Float[Tensor, "cluster d_model"]
) -> Float[Tensor, "cluster d_model"]:
    for _ in range(N_ROUNDS):
        nearest = (units @ centres.T).argmax(dim=1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, units)
        # One without a member stays where it is.
        moved = torch.where(sums.norm(dim=1, keepdim=True) > 0, torch.nn.functional.normalize(sums, dim=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusteringSae:
    """A sparse autoencoder with a latent for each category, after Venhoff et al. (arXiv:2510.07364).

    Latents are the `k` highest pre-activations, of either sign; Adam runs at 2e-4 / sqrt(n / 2^14). Here it starts at
    the centres of `k_means` instead of at random, stops by the loss on problems that it does not learn from, keeps the
    weights of the best epoch, and centres by the mean of all segments. The loss is the mean squared error, which is the
    fraction of variance unexplained but for a constant; there the variance is that of each batch.
    """

    k: int = 3
    n_epochs: int = 300
    batch_size: int = 512
    patience: int = 10
    """Epochs without a better stopping loss, after which it ends."""


@dataclass(frozen=True, slots=True)
class KMeans:
    """The baseline: categories are the centres of `k_means`, scores are cosines."""


Method: TypeAlias = ClusteringSae | KMeans


class Fitted(NamedTuple):
    """A taxonomy, and how it came about."""

    taxonomy: Taxonomy
    n_epochs: int
    n_dead: int
    """Categories that no segment of the fit belongs to."""


class _Weights(NamedTuple):
    """What is learned."""

    W_enc: Float[Tensor, "d_model category"]
    b_enc: Float[Tensor, " category"]
    W_dec: Float[Tensor, "category d_model"]
    b_dec: Float[Tensor, " d_model"]


def fit(data: SegmentMeans, parts: Parts, n_categories: int, method: Method, *, seed: int) -> Fitted:
    """A taxonomy of `n_categories` of the segments in `data`; the judged part of them is not looked at.

    Equal arguments give equal bytes on one machine. Raises EstimateError for fewer segments to fit on than categories,
    or a `k` that is not 1 to `n_categories`.
    """
    learned_from = torch.from_numpy(parts.fit)
    n_segments = int(learned_from.sum())
    if not 1 <= n_categories <= n_segments:
        raise EstimateError(
            f"{n_categories} categories of {n_segments} segments to fit on: want at least 1 category, and a segment "
            "for each; give more texts or fewer categories"
        )
    mean = data.means[learned_from].mean(dim=0)
    units = normalised(data.means[learned_from], mean)
    centres = k_means(units, n_categories, torch_generator(seed, "centres", n_categories))
    match method:
        case KMeans():
            k, n_epochs = 1, 0
            weights = _begun(centres)
        case ClusteringSae(k=k):
            if not 1 <= k <= n_categories:
                raise EstimateError(f"k = {k} of {n_categories} categories: want 1 to the number of categories")
            stopping = normalised(data.means[torch.from_numpy(parts.stopping)], mean)
            generator = torch_generator(seed, "batches", n_categories)
            weights, n_epochs = _trained(units, stopping, _begun(centres), method, generator)
        case never:
            assert_never(never)
    categories = (units @ weights.W_enc + weights.b_enc).argmax(dim=1).numpy()
    taxonomy = Taxonomy(
        site=data.site,
        mean=mean,
        k=k,
        names=category_names(data.segments.filter(parts.fit), categories, n_categories),
        model=data.model,
        model_digest=data.model_digest,
        **weights._asdict(),
    )
    return Fitted(taxonomy, n_epochs, n_categories - len(set(categories.tolist())))


def _begun(centres: Float[Tensor, "category d_model"]) -> _Weights:
    n, d_model = centres.shape
    return _Weights(centres.T.clone(), torch.zeros(n), centres.clone(), torch.zeros(d_model))


def _trained(
    units: Float[Tensor, "segment d_model"],
    stopping: Float[Tensor, "stopping d_model"],
    weights: _Weights,
    method: ClusteringSae,
    generator: torch.Generator,
) -> tuple[_Weights, int]:
    """The weights of the epoch with the lowest loss on `stopping`, and how many epochs there were."""
    weights = _Weights(*(tensor.requires_grad_() for tensor in weights))
    optimiser = torch.optim.Adam(weights, lr=2e-4 * (2**14 / len(weights.b_enc)) ** 0.5, fused=True)
    best, lowest, best_epoch, epoch = _copied(weights), _error(weights, stopping, method.k).item(), 0, 0
    while epoch < method.n_epochs and epoch - best_epoch < method.patience:
        epoch += 1
        for batch in torch.randperm(len(units), generator=generator).split(method.batch_size):
            loss = _error(weights, units[batch], method.k)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                weights.W_dec.div_(weights.W_dec.norm(dim=1, keepdim=True))
        if (stopped := _error(weights, stopping, method.k).item()) < lowest:
            best, lowest, best_epoch = _copied(weights), stopped, epoch
    return best, epoch


def _copied(weights: _Weights) -> _Weights:
    return _Weights(*(tensor.detach().clone() for tensor in weights))


def _error(weights: _Weights, units: Float[Tensor, "segment d_model"], k: int) -> Float[Tensor, ""]:
    """Mean squared distance of the reconstructions from `units`."""
    written = sparse(units @ weights.W_enc + weights.b_enc, k) @ weights.W_dec + weights.b_dec
    return (written - units).square().sum(dim=1).mean()
