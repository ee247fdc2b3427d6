"""Feature ranking: which features are worth a look, and by what."""

import polars as pl

from lab.report.feature_ledger import FeatureLedger

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


def shown_features(ledger: FeatureLedger, n: int) -> list[int]:
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
