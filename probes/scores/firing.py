"""firing: how often and how strongly every feature fires."""

import numpy as np
import polars as pl

from lab.feature_tables import FIRING
from probes.scores.sums import Sums


def firing(sums: Sums) -> pl.DataFrame:
    """`FIRING` rows, one a feature."""
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
