"""Asking: how the two models were asked, what else was tried with them, and the gain under each way of asking."""

from dataclasses import dataclass

import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.markup import counted, escaped, joined, markup, shortened
from elicitation.pages.kit.numerals import ABSENT, PERCENT, POINTS, percent
from elicitation.pages.kit.table import Reasons, numbers, sheet

WIDEST = 1200
"""Characters of a prompt that are shown."""


@dataclass(frozen=True, slots=True, eq=False)
class Asking:
    """What a study knows of it."""

    formats: pl.DataFrame
    """`FORMATS`."""
    comparisons: pl.DataFrame
    """`COMPARISONS`."""


def worded(way: str) -> str:
    """A way of asking inside a sentence."""
    return {"raw": "raw text", "template": "its chat template"}.get(way, way)


def asked_sentence(asking: Asking) -> str:
    """How either model is asked, and the gain in this and in the other ways, in plain text."""
    table = merged(asking.comparisons)
    own, *others = table.iter_rows(named=True)
    ways = own["base_format"], own["tuned_format"]
    how = f"the base by {worded(ways[0])}, the tuned model by {worded(ways[1])}"
    said = f"{how}; the gain so is {POINTS.said(own, 'gain')} points"
    if not others:
        return f"{said}."
    low, high = min(others, key=lambda row: row["gain"]), max(others, key=lambda row: row["gain"])
    rest = POINTS.said(low, "gain") if low is high else f"{POINTS.said(low, 'gain')} to {POINTS.said(high, 'gain')}"
    return f"{said}, asked otherwise {rest}."


def asking_block(asking: Asking, base: str, tuned: str) -> Markup:
    """The section: a sentence, the comparisons, and folded what was tried and what the models are shown."""
    own = asking.formats.filter("own")
    ways = {row["model"]: row["format"] for row in own.iter_rows(named=True)}
    how = f"{base} is asked by {worded(ways['base'])}, {tuned} by {worded(ways['tuned'])}"
    compared = sheet(
        ("", "Base asked by", "Tuned model asked by", "Base", "Tuned model", "Gain, points", "Cut"),
        [
            (
                row["comparison"],
                row["base_format"],
                row["tuned_format"],
                PERCENT.cell(row, "base"),
                PERCENT.cell(row, "tuned"),
                POINTS.cell(row, "gain"),
                f"{percent(row['base_cut'], 0)}, {percent(row['tuned_cut'], 0)}",
            )
            for row in merged(asking.comparisons).iter_rows(named=True)
        ],
        sentences=("Base asked by", "Tuned model asked by"),
    )
    shown = joined(
        markup(
            "<p><b>{}</b>, {}:</p><pre>{}</pre>",
            base if row["model"] == "base" else tuned,
            row["format"],
            joined(map(escaped, shortened(row["example"], WIDEST).split("\n")), "\n"),
        )
        for row in own.iter_rows(named=True)
    )
    said = markup("In this study {}.", how)
    n_tried = sum(asking.formats["n_problems"].unique())
    return (
        markup("<p>{} A gain that shrinks where both are asked alike was one of format.</p>", said)
        + compared
        + numbers("What either model is shown, for one problem", shown)
        + numbers(f"What was tried on {counted(n_tried, 'training problem')}", tried(asking.formats))
    )


def merged(comparisons: pl.DataFrame) -> pl.DataFrame:
    """Comparisons that ask both models in the same ways are one row, named by all of them."""
    ways = ["base_format", "tuned_format"]
    names = comparisons.group_by(ways, maintain_order=True).agg(pl.col("comparison").str.join("; "))
    return names.join(
        comparisons.drop("comparison").unique(ways, keep="first"), on=ways, how="left", maintain_order="left"
    )


def tried(formats: pl.DataFrame) -> Markup:
    """`FORMATS` as a table; what is best for a model and for both is named."""
    marks = {"own": "as the study asks", "best": "best for it", "shared": "best for both"}
    reasons = Reasons.of(formats["left_out"])
    lines = [
        (
            row["format"],
            row["model"],
            ABSENT if row["left_out"] else PERCENT.cell(row, "strict"),
            markup("left out{}", reasons.marks([row["left_out"]]))
            if row["left_out"]
            else ", ".join(words for name, words in marks.items() if row[name]),
        )
        for row in formats.iter_rows(named=True)
    ]
    return sheet(("", "Model", "Strict", "Which is"), lines, sentences=("Model", "Which is")) + reasons.notes(
        "a format"
    )
