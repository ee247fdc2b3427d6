"""Accuracy: the share of samples a verdict accepts, problem by problem. One array per verdict (strict, answer only)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lab.metrics.bootstrap import Interval, mean_interval
from lab.records.errors import EstimateError


def problem_accuracies(verdicts: Bool[np.ndarray, "problem sample"]) -> Float[np.ndarray, " problem"]:
    """Share of accepted samples of each problem, in [0, 1]."""
    if verdicts.shape[1] == 0:
        raise EstimateError("no samples came: accuracy needs at least one sample a problem")
    return verdicts.mean(axis=1, dtype=np.float64)


def accuracy(verdicts: Bool[np.ndarray, "problem sample"], weights: Int[np.ndarray, "boot _problem"]) -> Interval:
    """Mean accuracy over problems, which is pass@1, in [0, 1]; every problem counts the same."""
    return mean_interval(problem_accuracies(verdicts), weights)


def accuracy_by_family(
    verdicts: Bool[np.ndarray, "problem sample"],
    families: Sequence[str],
    weights: Int[np.ndarray, "boot _problem"],
) -> dict[str, Interval]:
    """Accuracy in each family, in the order of their names, on the same resamples as the whole.

    The number of a family's problems varies between resamples (domain estimation); one without any counts as the worst
    on either side, so a family of three problems gets the wide interval it deserves.
    """
    if len(families) != len(verdicts) or weights.shape[1] != len(verdicts):
        raise EstimateError(
            f"{len(verdicts)} problems came with {len(families)} families and weights for {weights.shape[1]}: "
            "give one family a problem and the weights of the same problems"
        )
    names = np.asarray(families)
    return {str(name): accuracy(verdicts[names == name], weights[:, names == name]) for name in sorted(set(families))}
