"""Feature tables: what a page of features is drawn from, which of it is shown, and what it is called."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from elicitation.pages.kit.numerals import Ruler, changes
from elicitation.pages.kit.tokens import token_word
from lab.records.tables import Schema
from probes import tables as declared

_NAMED = 3
"""Tokens that a feature is named by."""
TABLES: tuple[tuple[str, Schema], ...] = (
    ("quality", declared.SAE_QUALITY),
    ("interventions", declared.INTERVENTIONS),
    ("effects", declared.FEATURE_EFFECTS),
    ("firing", declared.FIRING),
    ("reason_scores", declared.REASON_SCORES),
    ("differences", declared.DIFFERENCES),
    ("label_probes", declared.LABEL_PROBES),
    ("label_activations", declared.LABEL_ACTIVATIONS),
    ("logit_effects", declared.LOGIT_EFFECTS),
    ("contexts", declared.CONTEXTS),
)
"""Field of `FeatureTables` -> schema of its table, in reading order."""
METHODS = ("ablation", "joint ablation", "integrated", "gradient")
"""Ways to an effect, the exact ones first."""


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

    @property
    def main_effects(self) -> pl.DataFrame:
        """`FEATURE_EFFECTS` by the first of `METHODS` that is there, strongest to either side first."""
        present = set(self.effects["method"])
        chosen = next((method for method in METHODS if method in present), next(iter(sorted(present)), ""))
        return _strongest(self.effects.filter(pl.col("method") == chosen), "effect")

    @property
    def ranked_differences(self) -> pl.DataFrame:
        """`DIFFERENCES`, largest to either side first, in the features' own units."""
        return _strongest(self.differences, "difference")

    @property
    def ranked_scores(self) -> pl.DataFrame:
        """`REASON_SCORES`, highest first."""
        known = self.reason_scores.filter(pl.col("score").is_not_nan())
        return known.sort("score", "feature", descending=[True, False])

    @property
    def effect_ruler(self) -> Ruler:
        """For effects in nats, by any method."""
        return changes(self.main_effects["effect"].head(1))

    @property
    def difference_ruler(self) -> Ruler:
        """For mean activations and their differences."""
        return changes(self.ranked_differences["difference"].head(1))

    def shown(self, n: int) -> list[int]:
        """The `n` features that get a card: by effect, else by ReasonScore, difference, or how often they fire."""
        fires = self.firing.sort("n_active", "feature", descending=[True, False])
        read = self.contexts.unique("feature", keep="first", maintain_order=True)
        ranked = (self.main_effects, self.ranked_scores, self.ranked_differences, fires, read)
        return next((table for table in ranked if table.height), self.firing)["feature"].head(n).to_list()

    def named(self, feature: int) -> str:
        """`Feature 137 · raises T V`, plain text; a token's spaces are ␣. Only the number where nothing is known."""
        raised = self.logit_effects.filter(pl.col("feature") == feature, pl.col("side") == "up").sort("rank")
        tokens = " ".join(token_word(text) for text in raised["text"].head(_NAMED))
        return f"Feature {feature} · raises {tokens}" if tokens else f"Feature {feature}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureNames:
    """Words for sentences and axes; each of them may come from anyone."""

    base: str
    tuned: str
    towards: str
    """What a feature of positive effect raises, such as `T`."""
    over: str
    """What it is weighed against, such as `A`."""
    behaviour: str
    """What the rate of an intervention is the rate of, such as `worked chains`."""


def method_words(method: str) -> str:
    """A way to an effect, such as `gradient`, in words that may follow `by`."""
    return "integrated gradients" if method == "integrated" else method


def ablates(row: Mapping[str, Any]) -> bool:
    """Whether a row of `INTERVENTIONS` switches features off in the tuned model; else it adds them to the base."""
    return str(row["intervention"]).startswith("ablat")


def _strongest(table: pl.DataFrame, column: str) -> pl.DataFrame:
    known = table.filter(pl.col(column).is_not_nan())
    return known.sort(pl.col(column).abs(), "feature", descending=[True, False])
