"""quality: how well a crosscoder writes both streams again, as a table."""

import polars as pl

from lab.feature_tables import CROSSCODER_QUALITY
from probes.crosscoder.moments import Moments


def quality(summed: Moments) -> pl.DataFrame:
    """`CROSSCODER_QUALITY` rows, one a model; explained variance is NaN where the stream does not vary."""
    d_sae = len(summed.n_active)
    return CROSSCODER_QUALITY.frame(
        [
            {
                "model": model,
                "n_rows": summed.n_rows,
                "d_sae": d_sae,
                "explained_variance": float(1 - summed.squared_error[place] / summed.squared_distance[place]),
                "l0": float(summed.n_active.sum()) / summed.n_rows,
                "dead_share": float((summed.n_active == 0).sum()) / d_sae,
            }
            for place, model in enumerate(("base", "tuned"))
        ]
    )
