"""Page: a study as one HTML file that needs nothing else: no network, no fonts, no server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import plotly.graph_objects as go
import polars as pl

from lab.provenance import Provenance
from lab.report import captions
from lab.report.answer import answer_sentence
from lab.report.canvas import Canvas
from lab.report.document import document
from lab.report.estimates_section import estimates_section
from lab.report.feature_ledger import FeatureLedger
from lab.report.feature_names import FeatureNames
from lab.report.feature_section import feature_section
from lab.report.figures import cover_figure, family_figure, guess_figure, ladder_figure, pass_at_k_figure
from lab.report.ladder_table import ladder_table
from lab.report.ledger import Ledger
from lab.report.markup import escaped
from lab.report.palette import ArmStyle, arm_styles, completed
from lab.report.plot_block import arm_key, plot_block
from lab.report.provenance_section import TableFile, provenance_section, sources
from lab.report.recovery_key import recovery_key
from lab.report.recovery_scatter import recovery_scatter
from lab.report.rivals_section import rivals_section
from lab.report.trace_cards import trace_cards
from lab.report.truncation import truncation_warning


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
    ledger: Ledger
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
    features: tuple[FeatureLedger, FeatureNames] | None = None
    """What single features do, and what it is called; None where none were sought."""


def render(page: Page) -> str:
    """The page as HTML; equal pages give equal text."""
    ledger = page.ledger
    answer = answer_sentence(ledger.ladder, page.leaks, page.task, page.base, page.tuned, page.sampling)
    note = captions.how_to_read(process_checked=page.process_checked)
    body = [
        f'<header><h1>{escaped(page.title)}</h1><p class="answer">{escaped(answer)}</p>{note}</header>',
        _ladder(page, answer),
        _recovery(page),
        _sourced(page, rivals_section(ledger.rivals), "rivals"),
        _sourced(page, estimates_section(page.estimates, page.records), "estimates", "records"),
        _sourced(page, _guess(ledger), "guess"),
        *_curves(page),
        _sourced(page, _families(ledger, page.process_checked), "families"),
        "" if page.features is None else feature_section(*page.features),
        _sourced(page, _traces(ledger.examples), "examples"),
        f"{captions.PROVENANCE}{provenance_section(page.made_by, page.command, page.files)}",
    ]
    sections = "".join(f"<section>{part}</section>" for part in body if part)
    return document(page.title, sections, captions.WITHOUT_SCRIPTS)


def _sourced(page: Page, section: str, *tables: str) -> str:
    """A section with where its numbers are; a section that says nothing stays empty."""
    return section and f"{section}{sources(page.files, *tables)}"


def _ladder(page: Page, answer: str) -> str:
    ladder, key = page.ledger.ladder, captions.LADDER.key
    plot = plot_block("ladder", lambda canvas: ladder_figure(ladder, canvas), says=answer, caption=key)
    table = f"{ladder_table(ladder, page.leaks)}{captions.LEAK}"
    section = f"{captions.LADDER.head}{plot}{table}{truncation_warning(ladder)}"
    return _sourced(page, section, "ladder", "leaks")


def _recovery(page: Page) -> str:
    ladder, caption = page.ledger.ladder, captions.RECOVERY
    if "rung" not in ladder["kind"]:
        return ""
    plot = plot_block(
        "recovery",
        lambda canvas: recovery_scatter(ladder, page.leaks, canvas),
        says=caption.says,
        caption=caption.key,
    )
    return _sourced(page, f"{caption.head}{recovery_key(ladder, page.leaks)}{plot}", "ladder", "leaks")


def _guess(ledger: Ledger) -> str:
    if ledger.guess.is_empty():
        return ""
    styles, caption = completed(arm_styles(ledger.ladder), ledger.guess["arm"]), captions.GUESS
    plot = plot_block(
        "guess", lambda canvas: guess_figure(ledger.guess, canvas, styles), says=caption.says, caption=caption.key
    )
    return f"{caption.head}{plot}"


def _curves(page: Page) -> tuple[str, str]:
    ledger, checked, styles = page.ledger, page.process_checked, arm_styles(page.ledger.ladder)
    tries, often = captions.pass_at_k(process_checked=checked), captions.cover(process_checked=checked)
    first = _lines("pass-at-k", ledger.pass_at_k, partial(pass_at_k_figure, process_checked=checked), styles, tries)
    second = _lines("cover", ledger.cover, partial(cover_figure, process_checked=checked), styles, often)
    return _sourced(page, first, "pass_at_k"), _sourced(page, second, "cover")


def _families(ledger: Ledger, checked: bool) -> str:
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
    plot = plot_block(name, lambda canvas: draw(frame, canvas, shown), says=caption.says, caption=caption.key)
    return f"{caption.head}{arm_key(_labels(frame), shown)}{plot}"


def _traces(examples: pl.DataFrame) -> str:
    return "" if examples.is_empty() else f"{captions.TRACES}{trace_cards(examples)}"


def _labels(frame: pl.DataFrame) -> dict[str, str]:
    return dict(frame.select("arm", "label").unique("arm", keep="first", maintain_order=True).iter_rows())
