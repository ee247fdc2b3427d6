"""VectorLedger: all that a page of steering vectors says, as tables."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from lab.errors import EstimateError
from lab.vector_tables import VECTOR_DOSES, VECTOR_EFFECTS, VECTOR_FITS, VECTOR_TRANSFERS

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
class VectorLedger:
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

    def main(self, measure: str) -> list[dict[str, Any]]:
        """Rows of both models and of the fits, without controls, at temperature 1 and then greedily."""
        return [row for name in DECODINGS for row in self.rows(measure, name) if row["control"] is None]
