"""Feature ledger: the tables that a page of features is drawn from."""

from dataclasses import dataclass

import polars as pl

from lab.records.tables import Schema
from probes.tables import (
    CONTEXTS,
    DIFFERENCES,
    FEATURE_EFFECTS,
    FIRING,
    INTERVENTIONS,
    LABEL_ACTIVATIONS,
    LABEL_PROBES,
    LOGIT_EFFECTS,
    REASON_SCORES,
    SAE_QUALITY,
)

TABLES: tuple[tuple[str, Schema], ...] = (
    ("quality", SAE_QUALITY),
    ("interventions", INTERVENTIONS),
    ("effects", FEATURE_EFFECTS),
    ("firing", FIRING),
    ("reason_scores", REASON_SCORES),
    ("differences", DIFFERENCES),
    ("label_probes", LABEL_PROBES),
    ("label_activations", LABEL_ACTIVATIONS),
    ("logit_effects", LOGIT_EFFECTS),
    ("contexts", CONTEXTS),
)
"""Field of the ledger -> schema of its table, in reading order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FeatureTables:
    """All that is known of the features of one SAE. Any table may have no rows; what it would show is then left out."""

    quality: pl.DataFrame
    """`SAE_QUALITY`; the first row is of this SAE, others are for comparison."""
    interventions: pl.DataFrame
    effects: pl.DataFrame
    """`FEATURE_EFFECTS`."""
    firing: pl.DataFrame
    reason_scores: pl.DataFrame
    differences: pl.DataFrame
    label_probes: pl.DataFrame
    label_activations: pl.DataFrame
    logit_effects: pl.DataFrame
    contexts: pl.DataFrame

    def __post_init__(self) -> None:
        for name, schema in TABLES:
            schema.checked(getattr(self, name))


METHODS = ("ablation", "joint ablation", "integrated", "gradient")
"""Ways to an effect, the exact ones first."""


def main_effects(effects: pl.DataFrame) -> pl.DataFrame:
    """`FEATURE_EFFECTS` by the first of `METHODS` that is there, strongest to either side first."""
    present = set(effects["method"])
    chosen = next((method for method in METHODS if method in present), next(iter(sorted(present)), ""))
    return _strongest(effects.filter(pl.col("method") == chosen), "effect")


def ranked_differences(differences: pl.DataFrame) -> pl.DataFrame:
    """`DIFFERENCES`, largest to either side first, in the features' own units."""
    return _strongest(differences, "difference")


def ranked_scores(scores: pl.DataFrame) -> pl.DataFrame:
    """`REASON_SCORES`, highest first."""
    return scores.filter(pl.col("score").is_not_nan()).sort("score", "feature", descending=[True, False])


def shown_features(ledger: FeatureTables, n: int) -> list[int]:
    """The `n` features that get a card: by effect, else by ReasonScore, difference, or how often they fire."""
    ranked = (
        main_effects(ledger.effects),
        ranked_scores(ledger.reason_scores),
        ranked_differences(ledger.differences),
        ledger.firing.sort("n_active", "feature", descending=[True, False]),
        ledger.contexts.unique("feature", keep="first", maintain_order=True),
    )
    best = next((table for table in ranked if table.height), ledger.firing)
    return best["feature"].head(n).to_list()


def _strongest(table: pl.DataFrame, column: str) -> pl.DataFrame:
    known = table.filter(pl.col(column).is_not_nan())
    return known.sort(pl.col(column).abs(), "feature", descending=[True, False])
