"""Page: a study as one HTML file that needs nothing else: no network, no fonts, no server."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from elicitation.pages.kit.canvas import Canvas, key, plot_block
from elicitation.pages.kit.document import Origin, document
from elicitation.pages.kit.palette import completed
from elicitation.pages.kit.table import numbers, sheet
from elicitation.pages.study import figures
from elicitation.pages.study.asking import Asking, asked_sentence, asking_block
from elicitation.pages.study.contamination import CONTAMINATION, memory_section, memory_sentence
from elicitation.pages.study.estimates import estimates_section, published_section
from elicitation.pages.study.ladder import answer_sentence, glance, ladder_table
from elicitation.pages.study.outcomes import outcomes_block
from elicitation.pages.study.tables import ReportTables, rungs
from elicitation.pages.study.traces import trace_cards, truncation_warning


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Page:
    """All that a report needs; every string in it may come from anyone."""

    title: str
    task: str
    """What stands before the word problems, such as `held-out chain`."""
    sampling: str
    """How completions were drawn, such as `at temperature 1`."""
    process_checked: bool
    """Whether the task's verifier can tell a valid process; if not, strict accuracy is answer accuracy."""
    base: str
    """Name of the base model."""
    tuned: str
    """Name of the tuned model."""
    tables: ReportTables
    estimates: pl.DataFrame
    """`ESTIMATES`; without rows the section is left out."""
    records: pl.DataFrame
    """`RECORDS` of the estimators' calibration; may have no rows."""
    leaks: pl.DataFrame
    """`LEAKS` of the calibration's ladders; may have no rows."""
    origin: Origin
    contamination: pl.DataFrame = field(default_factory=partial(CONTAMINATION.frame, []))
    """`CONTAMINATION`; without rows the section is left out."""
    asking: Asking | None = None
    """How the models were asked, and what else was tried; None where there is one way."""
    pair: pl.DataFrame | None = None
    """`PAIR`: what the models have in common, and what not, before anything ran."""
    features: str = ""
    """What single features do: `feature_section`; empty where none were sought."""


def render(page: Page) -> str:
    """The page as HTML; equal pages give equal text."""
    tables, ladder, leaks = page.tables, page.tables.ladder, page.leaks
    n_problems = rungs(ladder, "strict")["n_problems"].max()
    compared = f"{page.base}, the base, with {page.tuned}, the tuned model, on {n_problems} {page.task} problems"
    styles = completed(figures.arm_styles(ladder), tables.guess["arm"])
    return document(
        "study/page.html",
        page.title,
        page.origin,
        plot_block=plot_block,
        numbers=numbers,
        checked=page.process_checked,
        answer=answer_sentence(ladder, leaks, page.task, page.base, page.tuned, page.sampling),
        glance=glance(
            ladder,
            page.estimates,
            page.records,
            compared,
            process_checked=page.process_checked,
            asked="" if page.asking is None else asked_sentence(page.asking),
            memory=memory_sentence(page.contamination),
        ),
        asking=None if page.asking is None else asking_block(page.asking, page.base, page.tuned),
        draw_ladder=partial(figures.ladder_figure, ladder),
        pair=None if page.pair is None else pair_sheet(page.pair),
        ladder=ladder_table(ladder, leaks),
        warning=truncation_warning(ladder),
        outcomes=outcomes_block(tables.outcomes, ladder),
        helped="rung" in ladder["kind"],
        draw_recovery=partial(figures.recovery_scatter, ladder, leaks),
        recovery_key=figures.recovery_key(ladder, leaks),
        published=published_section(tables.published_hybrids),
        estimates=estimates_section(page.estimates, page.records),
        guessed=tables.guess.height,
        draw_guess=partial(figures.guess_figure, tables.guess, styles=styles),
        tries=_curves(page, "k", tables.pass_at_k),
        often=_curves(page, "tau", tables.cover),
        families=_curves(page, "family", tables.families),
        memory=memory_section(page.contamination),
        features=page.features,
        traces=trace_cards(tables.examples) if tables.examples.height else "",
    )


def pair_sheet(pair: pl.DataFrame) -> Markup:
    """`PAIR` as a table."""
    headings = ("", "Base", "Tuned model", "Verdict", "What follows")
    return sheet(headings, pair.rows(), sentences=headings[1:])


def _curves(page: Page, column: str, frame: pl.DataFrame) -> tuple[Markup, Callable[[Canvas], go.Figure]] | None:
    """(key, figure) of a table of curves; None where it has no rows."""
    labels = dict(frame.select("arm", "label").unique("arm", keep="first", maintain_order=True).iter_rows())
    styles = completed(figures.arm_styles(page.tables.ladder), labels)
    draw = partial(figures.curve_figure, column, frame, styles=styles, process_checked=page.process_checked)
    return (key([(label, styles[arm]) for arm, label in labels.items()]), draw) if labels else None
