"""rival_gap: the share of a gap as arXiv:2510.07364's code computes it, to stand beside `elicited_share`."""

import math


def rival_gap(hybrid: float, base: float, tuned: float) -> float:
    """max(0, (hybrid - min(base, tuned)) / |tuned - base|) of three accuracies; NaN where base and tuned are equal.

    It is blind to the sign of the gain: where tuning did harm, an untouched base model scores 1 here. What falls below
    both models is lifted to 0, so the mean over pairs or seeds is too high. It has no interval and refuses no gap.
    `lab.metrics.share.elicited_share` is (hybrid - base) / (tuned - base), unclipped, with an interval and a refusal.
    """
    if tuned == base:
        return math.nan
    return max(0.0, (hybrid - min(base, tuned)) / abs(tuned - base))
