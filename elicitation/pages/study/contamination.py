"""Contamination: whether what a study measured can be memory of its problems, as a table, a line and a section."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import filled
from elicitation.pages.kit.numerals import PERCENT, POINTS, WHOLE, percent
from elicitation.pages.kit.table import numbers, sheet, titled
from lab.records.tables import Column, Schema


def _interval(of: str, name: str = "") -> tuple[Column, Column]:
    low, high = (f"{end} end of the 95 % interval of {of}; problems are resampled." for end in ("Lower", "Upper"))
    return Column(f"{name}low", pl.Float64, low), Column(f"{name}high", pl.Float64, high)


CONTAMINATION = Schema(
    "contamination",
    (
        Column(
            "check",
            pl.Utf8,
            "`exact`: questions whose rest the model writes word for word; `overlap`: words of the rest that it writes "
            "in their order; `numbers`, `wording`: accuracy on copies with other numbers or another order of "
            "sentences; `dates`: accuracy on problems from a date on.",
        ),
        Column("setting", pl.Utf8, "How it was asked: how much of a question was shown, or the date."),
        Column("role", pl.Utf8, "`base` or `tuned`."),
        Column("model", pl.Utf8, "Name of the model."),
        Column("n_problems", pl.Int32, "Problems behind the value."),
        Column("value", pl.Float64, "What was found, a fraction."),
        *_interval("the value"),
        Column("n_control", pl.Int32, "Problems behind the control."),
        Column(
            "control",
            pl.Float64,
            "The same where memory cannot help, or helps all: the rests of the other questions; accuracy on the "
            "originals; accuracy on earlier problems.",
        ),
        *_interval("the control", "control_"),
        Column("difference", pl.Float64, "Value minus control; paired by problem, but for dates."),
        *_interval("the difference", "difference_"),
    ),
)
Row = Mapping[str, Any]
"""A row of `CONTAMINATION`."""
_SIGNS = {
    "exact": "{model} completes {value} of {n_problems} questions, word for word, from their {setting} "
    "(by chance {control})",
    "numbers": "{model} solves {value} of {n_problems} copies with other numbers, and {control} of the originals",
    "wording": "{model} solves {value} of {n_problems} copies in another order, and {control} of the originals",
    "dates": "{model} solves {value} of {n_problems} problems {setting}, and {control} of {n_control} before",
}
"""What is said of a row that speaks for memory."""
_QUIET = {
    "exact": "of {n_problems} questions, from their {setting}, {values} are completed (by chance {controls})",
    "numbers": "{n_problems} copies with other numbers change accuracy by {differences} points",
    "dates": "{n_problems} problems {setting} are solved by {differences} points more than {n_control} before",
}
"""What is said of a check, of both models, where nothing speaks for memory."""
_MEANT = {
    "exact": ("Rest of a question, word for word", "rests of the other questions"),
    "overlap": ("Words of the rest, in their order", "rests of the other questions"),
    "numbers": ("Copies with other numbers", "the originals"),
    "wording": ("Copies in another order", "the originals"),
    "dates": ("Problems by date", "earlier problems"),
}
"""Check -> what a row is, and what stands beside it."""


def signs(table: pl.DataFrame) -> list[bool]:
    """Whether each row speaks for memory: its difference lies beyond nought, on that side, by its interval.

    The interval is stretched as for one that holds in all comparisons of the table at once (Bonferroni). Overlap alone
    never speaks for memory: who writes on the subject shares words with the rest.
    """
    n_compared = max(1, table.filter(pl.col("check") != "overlap").height)
    stretch = NormalDist().inv_cdf(1 - 0.025 / n_compared) / NormalDist().inv_cdf(0.975)
    least = pl.col("difference") - stretch * (pl.col("difference") - pl.col("difference_low"))
    most = pl.col("difference") + stretch * (pl.col("difference_high") - pl.col("difference"))
    of_check = pl.when(check="exact").then(least > 0).when(pl.col("check") != "overlap").then(most < 0).otherwise(False)
    return table.select(of_check)[:, 0].to_list()


def memory_sentence(table: pl.DataFrame) -> str:
    """What `CONTAMINATION` says, in plain text; empty where nothing was checked."""
    rows = [*table.iter_rows(named=True)]
    if found := [row for row, speaks in zip(rows, signs(table), strict=True) if speaks]:
        said = [
            _SIGNS[row["check"]].format_map({**row, "value": WHOLE.said(row), "control": percent(row["control"], 0)})
            for row in found
        ]
        return f"The share may measure memory: {'; '.join(said)}."
    said = [_quiet(of_check, words) for check, words in _QUIET.items() if (of_check := _of(rows, check))]
    return f"No sign that the share measures memory (base, then tuned): {'; '.join(said)}." if said else ""


def _of(rows: Sequence[Row], check: str) -> list[Row]:
    return [row for row in rows if row["check"] == check]


def _quiet(rows: Sequence[Row], words: str) -> str:
    lists = {
        "values": (percent(row["value"], 0) for row in rows),
        "controls": (percent(row["control"], 0) for row in rows),
        "differences": (POINTS.said(row, "difference") for row in rows),
    }
    joint = {name: " and ".join(said) for name, said in lists.items()}
    return words.format_map({**rows[0], **joint})


def memory_section(table: pl.DataFrame) -> Markup:
    """What was checked and how, with the table folded; empty where nothing was."""
    lines = [
        (
            titled(f"{_MEANT[row['check']][0]} · {row['model']}", row["setting"]),
            PERCENT.cell(row),
            titled(PERCENT.said(row, "control"), _MEANT[row["check"]][1]),
            POINTS.cell(row, "difference"),
            str(row["n_problems"]),
            "yes" if speaks else "no",
        )
        for row, speaks in zip(table.iter_rows(named=True), signs(table), strict=True)
    ]
    headings = ("", "Found", "Beside it", "Difference, points", "Problems", "Speaks for memory")
    shown = numbers("Every number of these checks", sheet(headings, lines))
    said = memory_sentence(table)
    return filled("study/contamination.html", said=said, table=shown) if lines else Markup("")
