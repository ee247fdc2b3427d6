"""What stands before the sections of a page, and what keeps a page small."""

import base64
import gzip

import polars as pl
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from elicitation.estimators.estimate import ESTIMATES
from elicitation.pages.kit.document import contents, sections
from elicitation.pages.kit.markup import packed
from elicitation.pages.kit.table import numbers
from elicitation.pages.study.ladder import glance
from elicitation.pages.study.page import Page, render
from elicitation.pages.study.tables import EXAMPLES, ReportTables
from elicitation.pages.study.traces import trace_cards
from tests.elicitation.pages.conftest import example_rows
from tests.elicitation.pages.test_best_estimate import RECORDED, estimates

COSTS, BARE = "<section><h2>What it costs</h2><p>1</p></section>", "<section><p>no heading</p></section>"
BODY = f"{COSTS}{BARE}<section>\n<h2>Base &amp; tuned, τ</h2><h2>again</h2></section>"


def test_the_contents_lead_to_every_section_that_has_a_heading():
    links = (
        '<a href="#part-what-it-costs">What it costs</a>',
        '<a href="#part-base-tuned">Base &amp; tuned, τ</a>',
    )
    assert contents(BODY).count("<li>") == 2
    assert all(link in contents(BODY) for link in links)
    placed = sections(BODY)
    assert placed.startswith('<section id="part-what-it-costs"><h2>')
    assert '<section id="part-base-tuned">\n<h2>' in placed
    assert BARE in placed


def test_a_page_of_one_section_needs_no_contents():
    assert contents(COSTS + BARE) == ""


def test_the_guide_names_its_words_before_it_is_unfolded(page: Page):
    summary, entries = render(page).split('<details class="how">')[1].split("</summary>")[:2]
    assert "strict, share, control" in summary
    assert "<dt>brackets</dt><dd>95 % intervals, resampling problems.</dd>" in entries


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_packed_comes_back_and_holds_no_markup(text: str):
    assert gzip.decompress(base64.b64decode(packed(text))).decode() == text
    assert not set("<>&\"'") & set(packed(text))


def test_a_folded_table_has_a_place_only_where_one_is_given():
    assert numbers("All", Markup("<table></table>")).startswith('<details class="numbers"><summary>All</summary>')
    assert 'id="there"' in numbers("All", "", place="there")


def seen(tables: ReportTables, found: pl.DataFrame, *, process_checked: bool = True) -> str:
    return glance(tables.ladder, found, RECORDED, "<a> with <b>", process_checked=process_checked)


def test_the_glance_says_what_was_compared_what_was_found_and_how_sure_it_is(tables: ReportTables):
    said = seen(tables, estimates())
    assert "<dt>Compared</dt><dd>&lt;a&gt; with &lt;b&gt;, up to 16 samples of each</dd>" in said
    assert "<dt>Already in the base</dt><dd>60" in said
    assert "only if every step that leads to it is valid" in said
    assert "other ways" not in said
    assert "Answers alone are counted" in seen(tables, estimates(), process_checked=False)


def test_the_glance_says_how_far_estimators_lie_apart(tables: ReportTables):
    second = pl.when(pl.col("quantity") == "poor").then(pl.lit("E1")).otherwise(pl.col("estimator")).alias("estimator")
    assert "from 30\u202f% to 90\u202f%" in seen(tables, estimates().with_columns(second))


def test_a_study_without_estimates_leaves_the_share_out(tables: ReportTables):
    assert "Already in the base" not in seen(tables, ESTIMATES.frame([]))


def test_a_long_completion_shows_its_beginning_and_its_end():
    rows = example_rows("q", tuple(f" {n}" for n in range(1000)))[1:2]
    card = trace_cards(EXAMPLES.frame(rows))
    assert card.count(" title=") == 180
    assert "… 820 tokens not shown …" in card
    assert "“ 0”" in card
    assert "“ 999”" in card
    assert "“ 500”" not in card


def test_cards_stop_where_a_page_would_grow_too_large():
    rows = [row for _ in range(30) for row in example_rows("q", ("a",) * 200)[1:2]]
    text = trace_cards(EXAMPLES.frame(rows))
    assert text.count("<article") == 13
    assert "7 more traces</summary>" in text
    assert "17 traces more in the table alone." in text


def test_of_a_long_prompt_the_end_is_shown_with_its_lines():
    rows = example_rows("begin" + "\n<p>" * 400 + "end?", ("a",))[1:2]
    card = trace_cards(EXAMPLES.frame(rows))
    assert "begin" not in card
    assert '<span class="prompt">…' in card
    assert "↵<br>&lt;p&gt;end?</span>" in card
