"""The terminal: bars, rates and the time left where there is one, a line a stage elsewhere."""

import io
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from elicitation.cli.terminal import Pace, Stages, Terminal, clock, ended, speed


def paced(*reports: tuple[float, int], total: int = 100) -> Pace:
    """A stage that began at 0 and was told so many items at these times."""
    pace = Pace.start(total, 0.0)
    for now, n_more in reports:
        pace = pace.after(n_more, now)
    return pace


def test_a_rate_is_items_over_seconds_since_work_began():
    pace = paced((0.0, 0), (2.0, 10), (4.0, 10))
    assert pace.rate == pytest.approx(5.0)
    assert pace.left(4.0) == pytest.approx(80 / 5)
    assert pace.left(7.0) == pytest.approx(80 / 5 - 3)


def test_what_was_found_there_has_no_part_in_the_rate():
    resumed = paced((0.0, 30), (0.05, 30), (10.05, 10))
    assert resumed.n_done == 70
    assert resumed.rate == pytest.approx(1.0)
    assert resumed.left(10.05) == pytest.approx(30.0)


def test_without_work_there_is_no_rate_and_no_time_left():
    assert paced((0.0, 0)).rate is None
    assert paced((0.0, 100)).rate is None
    assert paced((0.0, 0)).left(1.0) is None
    assert paced((0.0, 100)).done


def test_time_left_is_never_below_nothing():
    assert paced((1.0, 99)).left(500.0) == 0


@given(st.lists(st.tuples(st.floats(0.2, 10), st.integers(1, 50)), min_size=1, max_size=20))
def test_the_rate_times_the_time_is_the_work(steps):
    pace, now = Pace.start(10_000, 0.0), 0.0
    for seconds, n_more in steps:
        now += seconds
        pace = pace.after(n_more, now)
    assert pace.rate is not None
    assert pace.rate * now == pytest.approx(sum(n_more for _, n_more in steps))


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750.0, "12:30"), (3723.0, "1:02:03")]
)
def test_a_clock_has_hours_only_where_there_are_any(seconds, shown):
    assert clock(seconds) == shown


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(None, ""), (12345.6, "12,346/s"), (3.25, "3.2/s"), (0.5, "30/min"), (1 / 600, "6.0/h"), (1 / 60, "1.0/min")],
)
def test_a_rate_has_the_unit_in_which_it_is_at_least_one(rate, shown):
    assert speed(rate) == shown


def test_a_stage_that_ends_is_told_in_one_line():
    assert ended("traces: base", paced((2.0, 100))) == "traces: base                           100 in 2.0 s, 50/s"
    assert ended("traces: base", paced((0.0, 100))) == "traces: base                           100 in 0.0 s"


def test_where_there_is_no_terminal_a_stage_gets_one_line_at_its_end_and_no_bar():
    written = io.StringIO()
    with Terminal([], Console(file=written, markup=False, width=80)).progress() as watch:
        watch("traces: [red]", 0, 4)
        watch("traces: [red]", 3, 4)
        watch("fits", 1, 2)
        assert written.getvalue() == ""
        watch("traces: [red]", 1, 4)
        watch("traces: [red]", 0, 4)
    (line,) = written.getvalue().splitlines()
    assert line.startswith("traces: [red]  ")
    assert "\x1b" not in line


def test_on_a_terminal_a_stage_that_goes_on_has_a_bar_with_rate_and_time_left_and_one_that_ended_a_line():
    written = io.StringIO()
    console = Console(file=written, markup=False, width=80, force_terminal=True, color_system=None)
    with Terminal([], console).progress() as watch:
        watch("done", 2, 2)
        watch("traces: base", 0, 1000)
        time.sleep(0.15)
        watch("traces: base", 250, 1000)
        time.sleep(0.6)
    shown = written.getvalue()
    assert "done    " in shown
    assert "250/1000" in shown
    assert "/s" in shown
    assert "left" in shown
    assert "in all" in shown


def test_bars_fit_eighty_columns():
    written = io.StringIO()
    console = Console(file=written, width=80, force_terminal=True, color_system=None)
    stages = Stages()
    for stage in ("traces: fitted-disagreement-at-random", "policy gradient: other-task"):
        stages.paces[stage] = paced((1.0, 123_456), total=12_345_678)
    console.print(stages)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 3
    assert all("123456/12345678" in line and line.rstrip().endswith("left") for line in lines[:2])
