"""label_activations: what every feature does at the tokens of each label, and how well it alone finds them."""

from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64

from probes.scores.sums import Sums
from probes.tables import LABEL_ACTIVATIONS


class Auroc(NamedTuple):
    """Areas under the ROC curve, and how far the exact ones may lie from them."""

    value: Float64[np.ndarray, " d_sae"]
    error: Float64[np.ndarray, " d_sae"]


def label_activations(sums: Sums) -> pl.DataFrame:
    """`LABEL_ACTIVATIONS` rows, by label and feature; labels that no stored token has are left out."""
    n_features = len(sums.total)
    parts = []
    for number, (label, n_labelled) in enumerate(zip(sums.labels, sums.n_labelled.tolist(), strict=True)):
        if not n_labelled:
            continue
        with_label = sums.labelled_counts[number]
        area = auroc(with_label, n_labelled, sums.counts - with_label, sums.n_tokens - n_labelled)
        parts.append(
            pl.DataFrame(
                {
                    "feature": np.arange(n_features, dtype=np.int32),
                    "label": [label] * n_features,
                    "n_tokens": np.full(n_features, n_labelled, dtype=np.int64),
                    "mean": sums.labelled[number] / n_labelled,
                    "firing_share": with_label.sum(axis=1) / n_labelled,
                    "auroc": area.value,
                    "auroc_error": area.error,
                }
            )
        )
    return LABEL_ACTIVATIONS.checked(pl.concat(parts) if parts else LABEL_ACTIVATIONS.frame([]))


def auroc(
    positives: Int64[np.ndarray, "d_sae bin"],
    n_positive: int,
    negatives: Int64[np.ndarray, "d_sae bin"],
    n_negative: int,
) -> Auroc:
    """P(positive > negative) + P(equal) / 2 of the activations of all features, from histograms of those above 0.

    Two activations of one bin count as equal, so each such pair is wrong by at most a half: the exact value is within
    sum over bins of p_b q_b / 2, with p_b and q_b the shares of positives and negatives in bin b. Activations of 0 are
    equal indeed, so the bound is small where features are sparse. NaN where there are no positives or no negatives.
    """
    if not n_positive or not n_negative:
        return Auroc(*np.full((2, len(positives)), np.nan))
    p, q = positives / n_positive, negatives / n_negative
    q_at_zero = 1 - q.sum(axis=1, keepdims=True)
    q_below = q_at_zero + q.cumsum(axis=1) - q
    at_zero = (1 - p.sum(axis=1)) * q_at_zero[:, 0] / 2
    return Auroc(at_zero + (p * (q_below + q / 2)).sum(axis=1), (p * q).sum(axis=1) / 2)
