"""threshold: where scores are cut so that a wanted number of them lies above."""

import numpy as np
from jaxtyping import Float


def threshold(scores: Float[np.ndarray, " token"], n_above: int) -> float:
    """A number that as many of `scores` exceed as can be, nearest to `n_above`; of two as near, the higher number.

    It stands half-way between two scores, and beyond the last by half of the spread where all or none should exceed it.
    """
    levels, counts = np.unique(scores, return_counts=True)
    # Above a cut below level i are all scores of level i and up.
    n_exceeding = np.append(counts[::-1].cumsum()[::-1], 0)
    margin = max((levels[-1] - levels[0]) / 2, 1e-6)
    cuts = np.concatenate([[levels[0] - margin], (levels[:-1] + levels[1:]) / 2, [levels[-1] + margin]])
    distances = np.abs(n_exceeding - n_above)
    return float(cuts[np.flatnonzero(distances == distances.min())[-1]])
