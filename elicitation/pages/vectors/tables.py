"""Vector tables: all that a page of steering vectors says."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from typing import Any

import polars as pl

from elicitation.pages.study.tables import GUESS, LADDER
from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema
from lab.scoring.evidence import Control, DecodingName

_FIT = Column("fit", pl.String, "the fit, such as gradient-first-2; its vector is vectors/FIT.safetensors")
_CONTROL = Column("control", pl.String, "the control of that fit that the row is about; null for the fit itself")

VECTOR_FITS = Schema(
    "vector fits",
    (
        _FIT,
        Column("label", pl.String, "the fit in human words"),
        _CONTROL,
        Column("tokens", pl.String, "tokens at which it acts: every token, or first token"),
        Column("site", pl.String, "where it acts, one row a site; null where there is no vector"),
        Column("norm", pl.Float64, "L2 norm of the direction there; NaN where there is no vector"),
        Column("residual_norm", pl.Float64, "mean L2 norm of the model's own stream there; NaN where unknown"),
        Column("relative_dose", pl.Float64, "norm / residual_norm"),
        Column("description", pl.String, "how it was found; null where there is no vector"),
        Column("reason", pl.String, "why there is no vector; null where there is one"),
    ),
)

INCOHERENT = Schema(
    "incoherent",
    tuple(
        Column("value", pl.Float64, "Share of completions that are cut off, without an answer, or off the grammar.")
        if column.name == "value"
        else column
        for column in GUESS.columns
    ),
)

DOSES = Schema(
    "doses",
    (
        Column("dose", pl.Float64, "what the vector is multiplied with"),
        Column("relative_dose", pl.Float64, "norm of what is added / mean residual norm, at the site where largest"),
        Column("quantity", pl.String, "strict, answer, incoherent (shares of completions) or kl (nats a token)"),
        Column("value", pl.Float64, "mean over problems"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("change", pl.Float64, "mean over problems of the difference to no vector, paired"),
        Column("change_low", pl.Float64, "lower end of its 95 % interval"),
        Column("change_high", pl.Float64, "upper end of its 95 % interval"),
        Column("n_problems", pl.Int32, "problems behind the row"),
    ),
)

TRANSFERS = Schema(
    "transfers",
    (
        Column("check", pl.String, "removes (-v on the tuned model), other base, or other skill"),
        Column("model", pl.String, "the model that writes under the vector"),
        Column("task", pl.String, "what it is asked"),
        Column("dose", pl.Float64, "what the vector is multiplied with; negative where it should take away"),
        Column("quantity", pl.String, "strict or answer"),
        Column("plain", pl.Float64, "accuracy without a vector, a share of completions"),
        Column("steered", pl.Float64, "accuracy with the vector"),
        Column("control", pl.Float64, "accuracy with control vectors at the same dose, averaged over them"),
        Column("change", pl.Float64, "steered - plain, paired by problem"),
        Column("change_low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("change_high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("beyond", pl.Float64, "steered - control, paired by problem"),
        Column("beyond_low", pl.Float64, "lower end of its 95 % interval"),
        Column("beyond_high", pl.Float64, "upper end of its 95 % interval"),
    ),
)

VECTOR_DOSES = Schema("doses of fits", (_FIT, *DOSES.columns))
VECTOR_TRANSFERS = Schema("transfers of fits", (_FIT, *TRANSFERS.columns))


ENDS = ("base", "tuned")
DECODINGS: Mapping[DecodingName, str] = {"sampled": "at temperature 1", "greedy": "decoded greedily"}
"""Decoding -> in words."""
CONTROLS: Mapping[str, str] = {
    Control.RANDOM_VECTORS: "random directions",
    Control.SHUFFLED_LABELS: "shuffled labels",
    Control.OTHER_TASK: "fitted on another task",
    Control.PLACEBO_PAIR: "fitted on a placebo pair",
}
"""Control -> in words."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorTables:
    """Tables of one comparison; only the ladder may not be empty: at either decoding it has both models."""

    ladder: pl.DataFrame
    """A ladder at temperature 1 and another one decoded greedily, each with gains and shares of its own."""
    incoherent: pl.DataFrame
    fits: pl.DataFrame
    doses: pl.DataFrame
    transfers: pl.DataFrame

    def __post_init__(self) -> None:
        schemas = (LADDER, INCOHERENT, VECTOR_FITS, VECTOR_DOSES, VECTOR_TRANSFERS)
        tables = (self.ladder, self.incoherent, self.fits, self.doses, self.transfers)
        for schema, table in zip(schemas, tables, strict=True):
            schema.checked(table)
        there = set(self.ladder["role"])
        if missing := [end for end in ENDS if end not in there]:
            raise EstimateError(f"a ladder without {' and '.join(missing)}: want both models without a vector")

    def rows(self, measure: str, decoding: str) -> list[dict[str, Any]]:
        """One ladder under one measure, strict, answer or incoherent: the base, fits before their controls, tuned.

        A row has the columns of `LADDER` as a page asks for them: the accuracy is its `value`, what it has over the
        fit's `best_control` is `beyond`, and `fit` and `label` are of the fit that a control belongs to.
        """
        if measure == "incoherent":
            of = {
                row["arm"]: {name: row[name] for name in ("value", "low", "high")} for row in self.incoherent.to_dicts()
            }
            unmeasured = {"share": nan, "refusal": None, "measure": measure}
            return [row | unmeasured | of[row["arm"]] for row in self.rows("strict", decoding)]
        here = self.ladder.filter(pl.col("measure") == measure, pl.col("decoding") == decoding).to_dicts()
        arms = {row["arm"]: row for row in here}
        rows: list[dict[str, Any]] = []
        for row in here:
            rung = arms[row["control_of"] or row["arm"]]
            controls = [other for other in here if other["control_of"] == row["arm"]]
            best = max(controls, key=lambda other: other["accuracy"], default=None)
            common = {
                "fit": rung["arm"].removesuffix("-greedy"),
                "label": rung["label"].removesuffix(", greedy decoding"),
                "value": row["accuracy"],
                "best_control": None if best is None else best["control"],
            }
            ends = ("", "_low", "_high")
            rows.append(row | common | {f"beyond{end}": row[f"over_control{end}"] for end in ends})
        return rows

    def row(self, fit: str, measure: str, decoding: str) -> dict[str, Any]:
        """The row of a fit itself, or of one of the two models."""
        return next(row for row in self.rows(measure, decoding) if row["fit"] == fit and row["control"] is None)

    @property
    def labels(self) -> dict[str, str]:
        """Fit, or one of the two models -> its name in human words."""
        return {row["fit"]: row["label"] for row in self.rows("strict", "sampled")}

    def main(self, measure: str) -> list[dict[str, Any]]:
        """Rows of both models and of the fits, without controls, at temperature 1 and then greedily."""
        return [row for name in DECODINGS for row in self.rows(measure, name) if row["control"] is None]
