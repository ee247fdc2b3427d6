"""reason_scores: which features fire at labelled tokens, at all labels alike, and little elsewhere."""

import numpy as np
import polars as pl
from jaxtyping import Float64

from lab.records.errors import StorageError
from probes.scores.sums import Sums
from probes.tables import REASON_SCORES

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
        inside_share = _share(sums.inside / sums.n_inside)
        outside_share = _share(sums.outside / np.float64(sums.n_tokens - sums.n_inside))
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


def _share(means: Float64[np.ndarray, " d_sae"]) -> Float64[np.ndarray, " d_sae"]:
    """Each feature's part of the sum over all; NaN where that is 0."""
    return means / means.sum()


def _evenness(means: Float64[np.ndarray, "label d_sae"]) -> Float64[np.ndarray, " d_sae"]:
    """Entropy over the labels, as a share of the largest; NaN with fewer than two, or where all means are 0."""
    if len(means) < 2:
        return np.full(means.shape[1], np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        p = means / means.sum(axis=0)
        terms = np.where(p > 0, p * np.log(p), p)
    # Rounding may leave a hair outside.
    return np.clip(-terms.sum(axis=0) / np.log(len(means)), 0.0, 1.0)
