import math
import re

import pytest

from elicitation.pages.study.estimates import difference_words, published_section
from elicitation.pages.study.tables import PUBLISHED, ReportTables
from tests.elicitation.pages.opened import plain

NAN = math.nan


def row(theirs: float, share: float, **changes: object) -> dict[str, object]:
    return {
        "published": "P1", "arm": "p1", "label": "P1", "fault": None, "theirs": theirs, "share": share,
        "share_low": share - 0.1, "share_high": share + 0.1, "refusal": None, "accuracy": 0.5, "low": 0.45,
        "high": 0.55, "gap": 0.4, "truth": NAN, "n_problems": 200,
    } | changes  # fmt: skip


def test_each_method_has_a_table_with_the_published_form_first(tables: ReportTables):
    text = plain(published_section(tables.published_hybrids))
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["P1", "P2"]
    second = text.split("<h3>P2</h3>")[1]
    assert second.index("as published") < second.index("the vectors of one seed")


def test_both_formulas_stand_side_by_side_and_only_ours_has_an_interval(tables: ReportTables):
    text = plain(published_section(tables.published_hybrids))
    assert (
        'data-heading="Their formula"><div>82 % <span class="span">no interval</span></div></td>'
        '<td data-heading="Share, ours"><div>82 % <span class="span">[76, 89]</span>' in text
    )


def test_a_refused_share_leads_to_its_reason(tables: ReportTables):
    text = published_section(tables.published_hybrids)
    assert "refused<sup>1</sup>" in text
    assert "<ol><li>the gap of 1.2 points" in text


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (row(0.3, NAN, refusal="no gap"), "too close to share out"),
        (row(0.3, NAN), "Ours is not defined"),
        (row(NAN, NAN, refusal="no gap", gap=0.0), "not defined where both models do equally well"),
        (row(0.3, -0.3, gap=-0.2), "leaves out the sign"),
        (row(0.0, -0.3), "worse than the base; their formula says 0"),
        (row(0.3, 0.3), "The same number"),
        (row(0.5, 0.3), "answers were counted differently"),
        (row(0.05, 0.05), "The interval holds 0"),
        (row(0.3, 0.3, truth=0.0), "The true share is outside our interval; their number is 30 points from it."),
        (row(0.3, 0.3, truth=0.35), "The true share is inside our interval; their number is 5 points from it."),
    ],
)
def test_the_difference_is_put_in_words(made: dict[str, object], said: str):
    assert said in difference_words(made)


def test_an_interval_above_nought_is_not_said_to_hold_it():
    assert "holds 0" not in difference_words(row(0.3, 0.3))


def test_a_study_without_rivals_has_no_section():
    assert published_section(PUBLISHED.frame([])) == ""


def test_a_method_that_is_not_known_is_shown_without_a_description():
    text = published_section(PUBLISHED.frame([row(0.3, 0.3, published="<b>P9</b>")]))
    assert '<h3>&lt;b&gt;P9&lt;/b&gt;</h3><div class="scroll"><table' in text


def test_the_method_whose_fit_is_a_draw_is_said_to_be_one():
    said = "depends on how its vectors came out of their fit"
    assert said in published_section(PUBLISHED.frame([row(0.3, 0.3)]))
    assert said not in published_section(PUBLISHED.frame([row(0.3, 0.3, published="P2")]))
