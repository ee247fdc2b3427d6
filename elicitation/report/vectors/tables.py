"""Vector tables: all that a page of steering vectors says."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema

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

VECTOR_OUTCOMES = Schema(
    "outcomes under vectors",
    (
        Column("fit", pl.String, "the fit, or base or tuned: the models without a vector"),
        _CONTROL,
        Column("decoding", pl.String, "sampled (temperature 1) or greedy"),
        Column("problem_id", pl.String, "the problem that was answered"),
        Column("n_samples", pl.Int32, "completions of it"),
        Column("strict", pl.Float64, "share of them that are right by a valid process"),
        Column("answer", pl.Float64, "share that are right in the final answer"),
        Column("incoherent", pl.Float64, "share that cannot be read: cut off, without an answer, or off the grammar"),
    ),
)

VECTOR_EFFECTS = Schema(
    "effects of vectors",
    (
        Column("fit", pl.String, "the fit, or base or tuned: the models without a vector"),
        Column("label", pl.String, "the fit, or the model, in human words"),
        _CONTROL,
        Column("decoding", pl.String, "sampled (temperature 1) or greedy; all comparisons are within one"),
        Column("measure", pl.String, "strict, answer or incoherent, each a share of completions"),
        Column("value", pl.Float64, "mean over problems"),
        Column("low", pl.Float64, "lower end of its 95 % interval, problems resampled"),
        Column("high", pl.Float64, "upper end of its 95 % interval, problems resampled"),
        Column("gain", pl.Float64, "value minus the base's, paired by problem"),
        Column("gain_low", pl.Float64, "lower end of its 95 % interval"),
        Column("gain_high", pl.Float64, "upper end of its 95 % interval"),
        Column("share", pl.Float64, "gain over the tuned model's gain; NaN where refused or of no meaning"),
        Column("share_low", pl.Float64, "lower end of its 95 % interval, by Fieller"),
        Column("share_high", pl.Float64, "upper end of its 95 % interval, by Fieller"),
        Column("refusal", pl.String, "why no share is given; null where it is given or has no meaning"),
        Column(
            "best_control", pl.String, "the fit's best control: the one of the highest value; null where there is none"
        ),
        Column("beyond", pl.Float64, "value minus the best control's, paired by problem; NaN where there is none"),
        Column("beyond_low", pl.Float64, "lower end of its 95 % interval"),
        Column("beyond_high", pl.Float64, "upper end of its 95 % interval"),
        Column("n_problems", pl.Int32, "problems answered"),
        Column("n_samples", pl.Int32, "completions of each"),
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
DECODINGS = {"sampled": "at temperature 1", "greedy": "decoded greedily"}
"""Decoding -> in words."""
CONTROLS = {
    "random": "random directions",
    "shuffled": "shuffled labels",
    "other-task": "fitted on another task",
    "placebo": "fitted on a placebo pair",
}
"""Control -> in words."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VectorTables:
    """Tables of one comparison; only the effects, which begin with the base and the tuned model, may not be empty."""

    effects: pl.DataFrame
    fits: pl.DataFrame
    doses: pl.DataFrame
    transfers: pl.DataFrame

    def __post_init__(self) -> None:
        schemas = (VECTOR_EFFECTS, VECTOR_FITS, VECTOR_DOSES, VECTOR_TRANSFERS)
        for schema, table in zip(schemas, (self.effects, self.fits, self.doses, self.transfers), strict=True):
            schema.checked(table)
        if missing := [end for end in ENDS if end not in self.effects["fit"]]:
            raise EstimateError(
                f"effects of vectors without {' and '.join(missing)}: want both models without a vector"
            )

    def rows(self, measure: str, decoding: str) -> list[dict[str, Any]]:
        """`VECTOR_EFFECTS` of one measure and decoding: both models, then each fit before its controls."""
        return self.effects.filter(pl.col("measure") == measure, pl.col("decoding") == decoding).to_dicts()

    def row(self, fit: str, measure: str, decoding: str) -> dict[str, Any]:
        """The row of a fit itself, or of one of the two models."""
        return next(row for row in self.rows(measure, decoding) if row["fit"] == fit and row["control"] is None)

    @property
    def labels(self) -> dict[str, str]:
        """Fit, or one of the two models -> its name in human words."""
        return dict(self.effects.select("fit", "label").iter_rows())

    def main(self, measure: str) -> list[dict[str, Any]]:
        """Rows of both models and of the fits, without controls, at temperature 1 and then greedily."""
        return [row for name in DECODINGS for row in self.rows(measure, name) if row["control"] is None]
