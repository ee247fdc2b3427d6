import json
import re

import polars as pl
import pytest

from elicitation.calibration.record import NOT_MEASURED
from elicitation.pages.kit.canvas import NARROW, WIDE, Canvas
from elicitation.pages.kit.palette import DARK, MUTED, TUNED, VIOLET
from elicitation.pages.study.figures import LOOKS, recovery_key, recovery_scatter, rung_numbers
from elicitation.pages.study.page import Page
from elicitation.pages.study.tables import LADDER, ReportTables

NAN = float("nan")
CANVASES = pytest.mark.parametrize("canvas", [WIDE, NARROW], ids=["wide", "narrow"])


def marks(figure, *, leaks: bool = False):
    """Traces that are marks, by the words shown over them."""
    drawn = [trace for trace in figure.data if trace.mode == "markers"]
    return [trace for trace in drawn if (trace.marker.symbol == "diamond-open") == leaks]


@CANVASES
def test_every_rung_and_control_has_a_mark_at_its_share(page: Page, canvas: Canvas):
    found = marks(recovery_scatter(page.tables.ladder, page.leaks, canvas))
    assert [trace.y[0] for trace in found] == pytest.approx([5, 17, 61, 2, 5, 67, 11, 68, 93])


def test_help_without_bits_stands_left_of_help_with_bits_in_order(page: Page):
    found = marks(recovery_scatter(page.tables.ladder, page.leaks))
    places = [trace.x[0] for trace in found]
    assert all(place < 0 for place in places[:7])
    assert 0 < places[7] < places[8]
    assert places == sorted(places)


def test_intervals_reach_both_ways(page: Page):
    takeover = marks(recovery_scatter(page.tables.ladder, page.leaks))[-1]
    assert (takeover.error_y.array[0], takeover.error_y.arrayminus[0]) == pytest.approx((5.0, 5.0))
    # From 0.52 to 1.3 times and 0.8 times as many bits, in powers of ten.
    assert (takeover.error_x.array[0], takeover.error_x.arrayminus[0]) == pytest.approx((0.11394, 0.09691), abs=1e-5)


def test_what_takes_exactly_nothing_or_has_no_interval_has_no_bar_along_the_bits(page: Page):
    unknown = page.tables.ladder.with_columns(bits_low=pl.lit(NAN), bits_high=pl.lit(NAN))
    for trace in [
        marks(recovery_scatter(page.tables.ladder, page.leaks))[0],
        *marks(recovery_scatter(unknown, page.leaks)),
    ]:
        assert (trace.error_x.array[0], trace.error_x.arrayminus[0]) == (0.0, 0.0)


def test_a_rungs_leak_is_a_hollow_mark_at_the_same_bits_in_vermilion_where_it_leaks(page: Page):
    figure = recovery_scatter(page.tables.ladder, page.leaks)
    arms, leaked = marks(figure), marks(figure, leaks=True)
    assert [trace.y[0] for trace in leaked] == pytest.approx(
        [100 * gain / 0.98 for gain in (0.001, 0.004, 0.01, 0.31, 0.96)]
    )
    # Neither the decoding rung, which was not measured, nor a control has one.
    assert [trace.x[0] for trace in leaked] == [arms[index].x[0] for index in (0, 2, 5, 7, 8)]
    assert [trace.marker.color for trace in leaked] == [MUTED, MUTED, MUTED, TUNED, TUNED]
    assert leaked[-1].error_y.array[0] > 0


def test_a_ladder_whose_leaks_are_not_measured_is_drawn_without_them(page: Page):
    figure = recovery_scatter(page.tables.ladder, NOT_MEASURED)
    assert marks(figure, leaks=True) == []
    assert len(marks(figure)) == 9
    assert "TAUGHT" not in recovery_key(page.tables.ladder, NOT_MEASURED)


def test_refused_shares_are_drawn_in_points_and_all_leaks_are_within_the_axis(refused: ReportTables, page: Page):
    figure = recovery_scatter(refused.ladder, page.leaks)
    assert marks(figure)[2].y[0] == pytest.approx(39.3)
    assert "a share is refused" in figure.layout.yaxis.title.text
    assert [trace.y[0] for trace in marks(figure, leaks=True)] == pytest.approx([0.1, 0.4, 1.0, 31.0, 96.0])
    assert figure.layout.yaxis.range[1] > 96
    # The tuned model gains 64.4 points.
    assert figure.data[1].y == pytest.approx([64.4, 64.4])


def test_controls_are_hollow_and_rivals_have_an_ink_of_their_own(page: Page):
    published = page.tables.ladder.with_columns(
        family=pl.when(pl.col("arm") == "takeover").then(pl.lit("published")).otherwise("family")
    )
    found = marks(recovery_scatter(published, page.leaks))
    assert [trace.marker.symbol for trace in found].count("circle-open") == 3
    assert found[3].marker.color == found[2].marker.color == LOOKS["vector"].ink
    assert (found[-1].marker.color, found[-1].marker.symbol) == (VIOLET, "x")
    assert [trace.marker.color for trace in found].count(VIOLET) == 1


def test_numbers_in_the_figure_are_those_of_the_key(page: Page):
    ladder = page.tables.ladder
    numbers = rung_numbers(ladder)
    assert list(numbers.values()) == [1, 2, 3, 4, 5, 6]
    drawn = [note.text for note in recovery_scatter(ladder, page.leaks).layout.annotations]
    assert [text for text in drawn if text.isdecimal()] == ["1", "2", "3", "4", "5", "6"]
    named = re.findall(r"<b>(\d)</b>\u00a0([^<,]*)", recovery_key(ladder, page.leaks))
    assert named[2] == ("3", "one fitted steering vector")
    assert [int(number) for number, _ in named] == list(numbers.values())


def test_an_undefined_share_leaves_its_arm_out(page: Page):
    lost = page.tables.ladder.with_columns(share=pl.when(pl.col("arm") == "gate").then(NAN).otherwise("share"))
    assert len(marks(recovery_scatter(lost, page.leaks))) == 8


def test_a_ladder_of_free_help_alone_can_be_drawn(page: Page):
    free = LADDER.checked(page.tables.ladder.filter(~pl.col("arm").is_in(["gate", "takeover"])))
    assert len(marks(recovery_scatter(free, page.leaks))) == 7


@CANVASES
def test_every_colour_of_the_scatter_has_a_dark_twin(page: Page, canvas: Canvas):
    def colours(value: object, key: str = ""):
        if isinstance(value, dict):
            for name, item in value.items():
                yield from colours(item, name)
        elif isinstance(value, list):
            for item in value:
                yield from colours(item, key)
        elif isinstance(value, str) and key.lower().endswith("color"):
            yield value

    figure = recovery_scatter(page.tables.ladder, page.leaks, canvas)
    assert set(colours(json.loads(str(figure.to_json(engine="json"))))) <= set(DARK)
