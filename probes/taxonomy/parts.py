"""Parts: problems cut into those a taxonomy learns from, those that stop its fit, and those it is judged on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from lab.errors import EstimateError
from lab.seeds import child_seed

STOPPING_SHARE = JUDGED_SHARE = 0.2
"""Of all problems; at least one of each."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which segments belong to which part; each belongs to one, with all others of its problem."""

    fit: Bool[np.ndarray, " segment"]
    stopping: Bool[np.ndarray, " segment"]
    judged: Bool[np.ndarray, " segment"]
    """These decide nothing in a fit."""


def parts(problem_ids: Sequence[str], seed: int) -> Parts:
    """The parts of segments whose problems are `problem_ids`, one for each segment.

    Problems are ordered by a hash of (seed, id), so neither the order of segments nor their number matters. Raises
    EstimateError for fewer than three problems.
    """
    ordered = sorted(set(problem_ids), key=lambda problem_id: child_seed(seed, "part", problem_id))
    if len(ordered) < 3:
        raise EstimateError(
            f"segments of {len(ordered)} problems: want at least 3, to fit on, to stop on and to judge on"
        )
    n_judged, n_stopping = (max(1, round(share * len(ordered))) for share in (JUDGED_SHARE, STOPPING_SHARE))
    place = {problem_id: place for place, problem_id in enumerate(ordered)}
    places = np.array([place[problem_id] for problem_id in problem_ids])
    judged, stopping = places < n_judged, (places >= n_judged) & (places < n_judged + n_stopping)
    return Parts(fit=~judged & ~stopping, stopping=stopping, judged=judged)
