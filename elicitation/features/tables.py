"""feature_tables: all that is known of the features of one SAE, from the stores it reads."""

from dataclasses import dataclass

import polars as pl

from elicitation.report.features.tables import TABLES, FeatureTables, shown_features
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.seeds import numpy_generator
from probes.sae.dictionary import Sae
from probes.scores.contexts import contexts
from probes.scores.differences import differences
from probes.scores.label_activations import label_activations
from probes.scores.label_probes import label_probes
from probes.scores.logit_effects import logit_effects
from probes.scores.reason_scores import reason_scores
from probes.scores.sums import Sums, firing
from probes.storage.store import Store


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Read:
    """An SAE, and stores of what it reads."""

    sae: Sae
    model: Model
    """The base model, whose activations the SAE learnt."""
    base: Store
    """The base model's activations."""
    tuned: Store | None
    """The tuned model's on the same texts."""
    labels: pl.DataFrame
    """`LABELS` of the texts; may have no rows."""
    summed: Sums
    """The `sums` of `base` with these labels."""


def feature_tables(
    read: Read,
    *,
    quality: pl.DataFrame | None = None,
    effects: pl.DataFrame | None = None,
    interventions: pl.DataFrame | None = None,
    n_shown: int,
    n_boot: int,
    seed: int,
) -> FeatureTables:
    """The tables of `read.sae`, with contexts and logit effects of the `n_shown` features most worth a look.

    What was measured elsewhere is passed through. Raises as the scores do, for stores without the SAE's site.
    """
    elsewhere = {"quality": quality, "effects": effects, "interventions": interventions}
    found = {name: schema.frame([]) for name, schema in TABLES}
    found |= {name: table for name, table in elsewhere.items() if table is not None}
    found["firing"] = firing(read.summed)
    if read.tuned is not None:
        weights = resamples(n_problems(read.base), n_boot, numpy_generator(seed, "bootstrap of differences"))
        found["differences"] = differences(read.base, read.tuned, read.sae, weights)
    if len(read.labels):
        found["reason_scores"] = reason_scores(read.summed)
        found["label_probes"] = label_probes(read.base, read.sae, read.labels, seed=seed, n_boot=n_boot)
        found["label_activations"] = label_activations(read.summed)
    shown = shown_features(FeatureTables(**found), n_shown)
    found["logit_effects"] = logit_effects(read.model, read.sae, shown)
    found["contexts"] = contexts(read.base, read.sae, read.model.tokenizer, shown)
    return FeatureTables(**found)


def n_problems(store: Store) -> int:
    """Problems with a stored token."""
    return store.index().select(pl.col("problem_id").n_unique()).collect().item()
