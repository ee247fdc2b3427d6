"""Sums: all that one pass over a store adds up of every feature, label by label."""

import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from lab.records.errors import StorageError
from probes.sae.dictionary import Sae
from probes.scores.labels import label_names, label_rows, shard_features
from probes.storage.store import Store
from probes.tables import FIRING, REASON_SCORES

N_BINS = 96
"""Bins of activations above 0: four to an octave, by the leading bits of a float32, from 2^-12 to 2^12."""
# A float32 without its 21 last bits is four times its exponent, plus the quarter of the octave; 127 is the bias.
_SHIFT, _FIRST = 21, (127 - 12) * 4


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Sums:
    """Of some tokens, what all features add up to; sums of disjoint sets of tokens add."""

    labels: tuple[str, ...]
    n_tokens: int
    n_inside: int
    """Tokens with at least one label."""
    n_labelled: Int64[np.ndarray, " label"]
    inside: Float64[np.ndarray, " d_sae"]
    """Activation at tokens with at least one label."""
    outside: Float64[np.ndarray, " d_sae"]
    labelled: Float64[np.ndarray, "label d_sae"]
    largest: Float64[np.ndarray, " d_sae"]
    counts: Int64[np.ndarray, "d_sae bin"]
    """Tokens whose activation is above 0, by its size; the end bins hold what is beyond them too."""
    labelled_counts: Int64[np.ndarray, "label d_sae bin"]
    """The same of tokens with each label."""

    @property
    def total(self) -> Float64[np.ndarray, " d_sae"]:
        return self.inside + self.outside

    def __add__(self, other: "Sums") -> "Sums":
        assert self.labels == other.labels, "sums of other labels"
        added = {field.name: getattr(self, field.name) + getattr(other, field.name) for field in fields(Sums)}
        return Sums(**added | {"labels": self.labels, "largest": np.maximum(self.largest, other.largest)})


def sums(
    store: Store, sae: Sae, labels: pl.DataFrame, on_progress: Callable[[int, int], None] = lambda *_: None
) -> Sums:
    """One pass: every activation of the SAE's site is read once and encoded once, for all features and labels.

    `labels` is a `LABELS` table of the store's texts; without rows, no token has a label. The result is the
    `shard_sums` of all shards, added in their order, whoever computes them. The activations held do not grow with the
    tokens: one shard, a few encoded rows, and three times the sums, of 8 * 96 * (1 + n_labels) * d_sae bytes.
    `on_progress` is told shards just read, and shards in all. Raises as `label_names` and `shard_features` do.
    """
    names = label_names(store, labels) if len(labels) else ()
    n_shards = len(store.portions)

    def read() -> Iterator[Sums]:
        on_progress(0, n_shards)
        for number in range(n_shards):
            yield shard_sums(store, sae, labels, names, number)
            on_progress(1, n_shards)

    return functools.reduce(operator.add, read())


def shard_sums(store: Store, sae: Sae, labels: pl.DataFrame, names: tuple[str, ...], number: int) -> Sums:
    """The sums of one shard, a function of its arguments alone; `names` are the `label_names` of all of `labels`.

    Added up in the order of the shards, they give the bytes of `sums`. Sums are of float64.
    """
    marked = label_rows(store, labels, names, number)
    device = sae.W_dec.device
    kinds = torch.from_numpy(marked).to(device)
    added = torch.zeros(2 + len(names), sae.d_sae, dtype=torch.float64, device=device)
    largest = torch.zeros(sae.d_sae, dtype=torch.float64, device=device)
    counts = torch.zeros(1 + len(names), sae.d_sae * N_BINS, dtype=torch.int64, device=device)
    for chosen, features in shard_features(store, sae, number):
        here = kinds[chosen]
        inside = here.any(dim=1, keepdim=True)
        added += torch.cat([inside, ~inside, here], dim=1).T.double() @ features.double()
        largest = torch.maximum(largest, features.amax(dim=0).double())
        _count(counts, features, here)
    by_size = counts.reshape(1 + len(names), sae.d_sae, N_BINS).cpu().numpy()
    sums_of = added.cpu().numpy()
    return Sums(
        labels=names,
        n_tokens=len(marked),
        n_inside=int(marked.any(axis=1).sum()),
        n_labelled=marked.sum(axis=0),
        inside=sums_of[0],
        outside=sums_of[1],
        labelled=sums_of[2:],
        largest=largest.cpu().numpy(),
        counts=by_size[0],
        labelled_counts=by_size[1:],
    )


def _count(
    counts: Int[Tensor, "kind size"], features: Float[Tensor, "row d_sae"], marked: Bool[Tensor, "row label"]
) -> None:
    """Adds to `counts`, in place, how many activations of each feature have each size: in all rows, then by label."""
    rows, numbers = features.nonzero(as_tuple=True)
    sizes = (features[rows, numbers].float().view(torch.int32) >> _SHIFT).long() - _FIRST
    places = numbers * N_BINS + sizes.clamp(0, N_BINS - 1)
    counts[0] += torch.bincount(places, minlength=counts.shape[1])
    for label in range(marked.shape[1]):
        counts[1 + label] += torch.bincount(places[marked[rows, label]], minlength=counts.shape[1])


def firing(sums: Sums) -> pl.DataFrame:
    n_active = sums.counts.sum(axis=1)
    nowhere = np.full(len(n_active), np.nan)
    return FIRING.checked(
        pl.DataFrame(
            {
                "feature": np.arange(len(n_active), dtype=np.int32),
                "n_tokens": np.full(len(n_active), sums.n_tokens, dtype=np.int64),
                "n_active": n_active,
                "firing_share": n_active / sums.n_tokens,
                "mean_active": np.divide(sums.total, n_active, out=nowhere, where=n_active > 0),
                "max_active": sums.largest,
            }
        )
    )


ALPHA = 0.7
"""Weight of evenness in the paper."""


def reason_scores(sums: Sums, alpha: float = ALPHA) -> pl.DataFrame:
    """`REASON_SCORES` rows, one a feature: ReasonScore of arXiv:2503.18878, with labels in the place of word groups.

        score_i = mu+_i / sum_k mu+_k * H_i ** alpha - mu-_i / sum_k mu-_k
        H_i = -sum_j p_ij ln p_ij / ln n_labels,  p_ij = mu_ij / sum_j mu_ij

    with mu+ the mean activation over tokens that have a label, mu- over those without one, mu_ij over those with label
    j, zeros counted. The sums over k are over all features, and the means over all stored tokens. Departures: the
    paper's code normalises within chunks of the data and leaves special tokens out of mu-; here the normalisers are
    those of the whole store, and its positions say which tokens there are. Labels of no stored token do not count.

    NaN: the entropy with fewer than two labels, or where a feature is 0 at all of them; the score with fewer than two
    labels, of a feature that never fires, and where no token is without a label. A feature that fires only outside has
    the score -outside_share, whatever its entropy would be. A share is 0 / 0 for every feature, and with it every score
    NaN, where all features are 0 at all tokens that have a label, or at all that have none. Raises StorageError where
    no stored token has a label.
    """
    if not sums.n_inside:
        raise StorageError(
            f"none of the {sums.n_tokens} stored tokens has one of the labels {', '.join(sums.labels)}: capture more "
            "positions, such as completion, or label the very texts that were captured"
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = sums.inside / sums.n_inside
        outside = sums.outside / np.float64(sums.n_tokens - sums.n_inside)
        inside_share, outside_share = inside / inside.sum(), outside / outside.sum()
    present = sums.n_labelled > 0
    entropy = _evenness(sums.labelled[present] / sums.n_labelled[present, None])
    undefined = (sums.total == 0) | (present.sum() < 2)
    first = np.where(inside_share == 0, 0.0, inside_share * entropy**alpha)
    return REASON_SCORES.checked(
        pl.DataFrame(
            {
                "feature": np.arange(len(entropy), dtype=np.int32),
                "score": np.where(undefined, np.nan, first - outside_share),
                "inside_share": inside_share,
                "outside_share": outside_share,
                "entropy": entropy,
            }
        )
    )


def _evenness(means: Float64[np.ndarray, "label d_sae"]) -> Float64[np.ndarray, " d_sae"]:
    """Entropy over the labels, as a share of the largest; NaN with fewer than two, or where all means are 0."""
    if len(means) < 2:
        return np.full(means.shape[1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = means / means.sum(axis=0)
        terms = np.where(p > 0, p * np.log(p), p)
    # Rounding may leave a hair outside.
    return np.clip(-terms.sum(axis=0) / np.log(len(means)), 0.0, 1.0)
