"""Feature ledger: the tables that a page of features is drawn from."""

from dataclasses import dataclass

import polars as pl

from lab.feature_tables import (
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
from lab.tables import Schema

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
class FeatureLedger:
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
