"""Vector fits: what was found where, how long it is, and why what was not found was not, as HTML."""

import polars as pl

from lab.report.markup import escaped
from lab.report.numerals import figures, percent
from lab.report.sheet import sheet
from lab.report.vector_captions import FITS
from lab.report.vector_ledger import CONTROLS


def fit_block(fits: pl.DataFrame) -> str:
    """One row a fit and site, and a list of what could not be fitted; empty where there is neither."""
    if fits.is_empty():
        return ""
    found = fits.filter(pl.col("control").is_null(), pl.col("site").is_not_null())
    rows = [
        (
            f'{escaped(row["label"])}<span class="what">{escaped(row["site"])}; {escaped(row["how"] or "")}</span>',
            figures(row["norm"]),
            figures(row["residual_norm"]),
            percent(row["relative_dose"]),
        )
        for row in found.iter_rows(named=True)
    ]
    table = sheet(("", "Norm", "Norm of the stream", "Relative dose"), rows) if rows else ""
    return f"{FITS.head(2)}{table}{_missing(fits)}"


def _missing(fits: pl.DataFrame) -> str:
    items = [
        f"<li>{escaped(row['label'])}{_of(row['control'])}: {escaped(row['reason'])}</li>"
        for row in fits.filter(pl.col("reason").is_not_null()).iter_rows(named=True)
    ]
    return f'<div class="refusals"><p>What could not be fitted:</p><ul>{"".join(items)}</ul></div>' if items else ""


def _of(control: str | None) -> str:
    return "" if control is None else f", control {escaped(CONTROLS.get(control, control))}"
