"""roc: how well scores tell labelled tokens from others, with problems resampled."""

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.metrics.bootstrap import Interval, percentile_interval


def auroc_interval(
    scores: Float[np.ndarray, " token"],
    labelled: Bool[np.ndarray, " token"],
    problems: Int[np.ndarray, " token"],
    weights: Int[np.ndarray, "boot problem"],
) -> Interval:
    """P(score of a labelled token > score of another) + P(equal) / 2, and its 95 % interval.

    `problems` numbers the problem of each token; `weights` say how often a resample draws each. A token counts as often
    as its problem is drawn, so a resample's value is w C w / (w n+)(w n-) with C the pairs won between two problems:
    exact, and no sorting in a resample. NaN where there is no labelled token or no other.
    """
    n_problems = weights.shape[1]
    n_labelled = np.bincount(problems[labelled], minlength=n_problems).astype(np.float64)
    n_others = np.bincount(problems[~labelled], minlength=n_problems).astype(np.float64)
    if not n_labelled.sum() or not n_others.sum():
        return Interval(value=np.nan, low=np.nan, high=np.nan, stderr=np.nan)
    won = _pairs_won(scores, labelled, problems, n_problems)
    drawn = weights.astype(np.float64)
    pairs = (drawn @ n_labelled) * (drawn @ n_others)
    wins = ((drawn @ won) * drawn).sum(axis=1)
    replicates = np.divide(wins, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    value = float(won.sum() / (n_labelled.sum() * n_others.sum()))
    return percentile_interval(value, replicates, n_problems, bounds=(0.0, 1.0))


def best_threshold(scores: Float[np.ndarray, " token"], labelled: Bool[np.ndarray, " token"]) -> float:
    """The score from which calling tokens labelled gives the largest F1; the highest one of equals."""
    levels = np.unique(-scores)
    order = np.argsort(-scores, kind="stable")
    n_right = np.cumsum(labelled[order])
    # At the last token of each level all of its equals are called too.
    last = np.searchsorted(-scores[order], levels, side="right") - 1
    return float(-levels[np.argmax(2 * n_right[last] / (last + 1 + labelled.sum()))])


def f1(called: Bool[np.ndarray, " token"], labelled: Bool[np.ndarray, " token"]) -> float:
    """Harmonic mean of precision and recall; NaN where no token is labelled."""
    return float(2 * (called & labelled).sum() / (called.sum() + labelled.sum())) if labelled.any() else np.nan


def _pairs_won(
    scores: Float[np.ndarray, " token"],
    labelled: Bool[np.ndarray, " token"],
    problems: Int[np.ndarray, " token"],
    n_problems: int,
) -> Float[np.ndarray, "problem problem"]:
    """How many labelled tokens of the first problem beat other tokens of the second; an equal pair counts a half."""
    own, own_problem = scores[labelled], problems[labelled]
    won = np.zeros((n_problems, n_problems))
    for problem in range(n_problems):
        others = np.sort(scores[~labelled & (problems == problem)])
        beaten = (np.searchsorted(others, own, "left") + np.searchsorted(others, own, "right")) / 2
        won[:, problem] = np.bincount(own_problem, weights=beaten, minlength=n_problems)
    return won
