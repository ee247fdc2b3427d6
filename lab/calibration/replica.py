"""replica: the same evidence on a problem set that was drawn again, with replacement."""

from dataclasses import fields

import numpy as np
import polars as pl
from jaxtyping import Shaped

from lab.estimators.evidence import Evidence


def replica(evidence: Evidence, generator: np.random.Generator) -> Evidence:
    """Evidence on as many problems, drawn from those there are; a problem drawn twice counts as two.

    The old task's problems are their own set, and are drawn on their own.
    """
    ids = np.array(sorted(evidence.verdicts["problem_id"].unique().to_list()))
    drawn = drawing(ids, generator)
    tables = {
        field.name: redrawn(getattr(evidence, field.name), drawn)
        for field in fields(evidence)
        if field.name != "old_verdicts"
    }
    old = evidence.old_verdicts
    if not old.is_empty():
        old = redrawn(old, drawing(np.array(sorted(old["problem_id"].unique().to_list())), generator))
    return Evidence(**tables, old_verdicts=old)


def drawing(ids: Shaped[np.ndarray, " problem"], generator: np.random.Generator) -> pl.DataFrame:
    """Old and new names of the problems drawn."""
    chosen = generator.choice(ids, size=len(ids))
    return pl.DataFrame({"problem_id": chosen, "copy": [f"{index:06d}" for index in range(len(ids))]})


def redrawn(table: pl.DataFrame, drawn: pl.DataFrame) -> pl.DataFrame:
    """`table` with one copy of a problem's rows for each time it was drawn, under its new name."""
    joined = drawn.join(table, on="problem_id", how="inner")
    return joined.with_columns(pl.col("copy").alias("problem_id")).select(table.columns)
