"""matched: random features that fire about as often as some given ones, the control of every claim about features."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from lab.errors import EstimateError

N_NEAREST = 8
"""Candidates for each feature: those whose firing share is nearest to its own."""


def matched(
    features: Sequence[int], firing_share: Float[np.ndarray, " d_sae"], n_draws: int, generator: np.random.Generator
) -> Int[np.ndarray, "draw feature"]:
    """For every draw, one other feature for each of `features`, no two alike and none of `features` itself.

    Each is drawn from the `N_NEAREST` features whose firing share is nearest to its own by ratio, of those that fire at
    all and were not drawn before; of equally near ones every draw takes others. Raises EstimateError where there are
    too few, or one of `features` never fires.
    """
    silent = [feature for feature in features if not firing_share[feature] > 0]
    if silent:
        raise EstimateError(f"features {silent} never fire, so nothing fires as often: leave them out")
    alive = np.flatnonzero(firing_share > 0)
    others = alive[~np.isin(alive, features)]
    if len(others) < len(features) or not len(features):
        raise EstimateError(
            f"{len(others)} other features fire, to match {len(features)}: choose fewer features or a larger SAE"
        )
    drawn = np.empty((n_draws, len(features)), dtype=np.int64)
    for draw in range(n_draws):
        taken: set[int] = set()
        # In random order first, which the stable sort keeps among ties.
        others = generator.permutation(others)
        away = np.abs(np.log(firing_share[others])[None, :] - np.log(firing_share[list(features)])[:, None])
        nearest = others[away.argsort(axis=1, kind="stable")]
        # In random order, so that no feature always has the first choice.
        for place in generator.permutation(len(features)):
            left = [int(other) for other in nearest[place] if int(other) not in taken][:N_NEAREST]
            drawn[draw, place] = left[generator.integers(len(left))]
            taken.add(int(drawn[draw, place]))
    return drawn
