"""Page: a study as one HTML file that needs nothing else: no network, no fonts, no server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go
import polars as pl

from elicitation.report.features.captions import FeatureNames
from elicitation.report.features.page import feature_section
from elicitation.report.features.tables import FeatureTables
from elicitation.report.kit.canvas import Canvas
from elicitation.report.kit.document import document
from elicitation.report.kit.markup import escaped, numbers
from elicitation.report.kit.palette import ArmStyle, arm_styles, completed
from elicitation.report.kit.plot_block import arm_key, plot_block
from elicitation.report.kit.provenance_section import TableFile, provenance_section, sourced
from elicitation.report.study import captions
from elicitation.report.study.answer import answer_sentence
from elicitation.report.study.estimates_section import estimates_section
from elicitation.report.study.figures import cover_figure, family_figure, guess_figure, ladder_figure, pass_at_k_figure
from elicitation.report.study.ladder_table import glance, ladder_table
from elicitation.report.study.published_section import published_section
from elicitation.report.study.record_words import rungs
from elicitation.report.study.recovery_scatter import recovery_key, recovery_scatter
from elicitation.report.study.tables import ReportTables
from elicitation.report.study.traces import trace_cards, truncation_warning
from lab.records.provenance import Provenance


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
    ledger: ReportTables
    estimates: pl.DataFrame
    """`ESTIMATES`; without rows the section is left out."""
    records: pl.DataFrame
    """`RECORDS` of the estimators' calibration; may have no rows."""
    leaks: pl.DataFrame
    """`LEAKS` of the calibration's ladders; may have no rows."""
    made_by: Provenance
    command: str
    """What to type to make the page again."""
    files: tuple[TableFile, ...]
    features: tuple[FeatureTables, FeatureNames] | None = None
    """What single features do, and what it is called; None where none were sought."""


def render(page: Page) -> str:
    """The page as HTML; equal pages give equal text."""
    ledger = page.ledger
    answer = answer_sentence(ledger.ladder, page.leaks, page.task, page.base, page.tuned, page.sampling)
    n_problems = rungs(ledger.ladder, "strict")["n_problems"].max()
    compared = f"{page.base}, the base, with {page.tuned}, the tuned model, on {n_problems} {page.task} problems"
    seen = glance(ledger.ladder, page.estimates, page.records, compared, process_checked=page.process_checked)
    header = (
        f'<p class="answer">{escaped(answer)}</p>{seen}{captions.how_to_read(process_checked=page.process_checked)}'
    )
    parts = [
        _ladder(page, answer),
        _recovery(page),
        sourced(published_section(ledger.published_hybrids), page.files, "published_hybrids"),
        sourced(estimates_section(page.estimates, page.records), page.files, "estimates", "records"),
        sourced(_guess(ledger), page.files, "guess"),
        *_curves(page),
        sourced(_families(ledger, page.process_checked), page.files, "families"),
        "" if page.features is None else feature_section(*page.features),
        sourced(_traces(ledger.examples), page.files, "examples"),
        f"{captions.PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    return document(page.title, header, parts, captions.WITHOUT_SCRIPTS)


def _ladder(page: Page, answer: str) -> str:
    ladder = page.ledger.ladder
    plot = plot_block(
        "ladder", lambda canvas: ladder_figure(ladder, canvas), says=answer, caption=captions.LADDER.below
    )
    table = numbers(
        "Every number of this figure, with leaks and costs", f"{ladder_table(ladder, page.leaks)}{captions.LEAK}"
    )
    section = f"{captions.LADDER.head}{plot}{table}{truncation_warning(ladder)}"
    return sourced(section, page.files, "ladder", "leaks")


def _recovery(page: Page) -> str:
    ladder, caption = page.ledger.ladder, captions.RECOVERY
    if "rung" not in ladder["kind"]:
        return ""
    plot = plot_block(
        "recovery",
        lambda canvas: recovery_scatter(ladder, page.leaks, canvas),
        says=caption.says,
        caption=caption.below,
    )
    return sourced(f"{caption.head}{recovery_key(ladder, page.leaks)}{plot}", page.files, "ladder", "leaks")


def _guess(ledger: ReportTables) -> str:
    if ledger.guess.is_empty():
        return ""
    styles, caption = completed(arm_styles(ledger.ladder), ledger.guess["arm"]), captions.GUESS
    plot = plot_block(
        "guess", lambda canvas: guess_figure(ledger.guess, canvas, styles), says=caption.says, caption=caption.below
    )
    return f"{caption.head}{plot}"


def _curves(page: Page) -> tuple[str, str]:
    ledger, checked, styles = page.ledger, page.process_checked, arm_styles(page.ledger.ladder)
    tries, often = captions.pass_at_k(process_checked=checked), captions.cover(process_checked=checked)
    first = _lines("pass-at-k", ledger.pass_at_k, partial(pass_at_k_figure, process_checked=checked), styles, tries)
    second = _lines("cover", ledger.cover, partial(cover_figure, process_checked=checked), styles, often)
    return sourced(first, page.files, "pass_at_k"), sourced(second, page.files, "cover")


def _families(ledger: ReportTables, checked: bool) -> str:
    caption, draw = captions.families(process_checked=checked), partial(family_figure, process_checked=checked)
    return _lines("families", ledger.families, draw, arm_styles(ledger.ladder), caption)


def _lines(
    name: str,
    frame: pl.DataFrame,
    draw: Callable[[pl.DataFrame, Canvas, Mapping[str, ArmStyle]], go.Figure],
    styles: Mapping[str, ArmStyle],
    caption: captions.Caption,
) -> str:
    if frame.is_empty():
        return ""
    shown = completed(styles, frame["arm"].unique(maintain_order=True))
    plot = plot_block(name, lambda canvas: draw(frame, canvas, shown), says=caption.says, caption=caption.below)
    return f"{caption.head}{arm_key(_labels(frame), shown)}{plot}"


def _traces(examples: pl.DataFrame) -> str:
    return "" if examples.is_empty() else f"{captions.TRACES}{trace_cards(examples)}"


def _labels(frame: pl.DataFrame) -> dict[str, str]:
    return dict(frame.select("arm", "label").unique("arm", keep="first", maintain_order=True).iter_rows())
