"""categories: what each category of a taxonomy holds, in held-out segments."""

import numpy as np
import polars as pl
import torch

from probes.taxonomy.parts import Parts
from probes.taxonomy.segment_means import SegmentMeans
from probes.taxonomy.taxonomy import Taxonomy

N_EXAMPLES = 5


def categories(taxonomy: Taxonomy, spans: SegmentMeans, parts: Parts) -> list[dict[str, object]]:
    """Rows of `CATEGORIES` without the columns that name the fit, a row for each category, also for an empty one."""
    held_out = spans.segments.filter(parts.judged)
    scores = taxonomy.scores(spans.means[torch.from_numpy(parts.judged)])
    best = scores.max(dim=1)
    coded = held_out.with_columns(category=pl.Series(best.indices.numpy()), score=pl.Series(best.values.numpy()))
    return [
        {"category": category, "name": name} | _content(coded.filter(pl.col("category") == category), len(held_out))
        for category, name in enumerate(taxonomy.names)
    ]


def _content(members: pl.DataFrame, n_segments: int) -> dict[str, object]:
    labelled = members["label"].drop_nulls()
    # The most frequent, and of equals the first by name.
    counts = labelled.value_counts().sort(["count", "label"], descending=[True, False])
    nearest = members.sort("score", descending=True, maintain_order=True)["words"].unique(maintain_order=True)
    return {
        "share": len(members) / n_segments,
        "label": counts["label"][0] if len(counts) else None,
        "label_share": counts["count"][0] / len(labelled) if len(counts) else np.nan,
        "examples": nearest.head(N_EXAMPLES).to_list(),
    }
