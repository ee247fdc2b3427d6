"""The terminal: bars, rates and the time left where there is one, a line a stage elsewhere."""

import io
import time
from collections.abc import Iterable
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Task

from elicitation.cli.terminal import Stages, Terminal, clock, ended, rate, speed, stages


def watched(console: Console, times: Iterable[float]) -> Stages:
    """Stages whose clock reads 0, then these times, one at each report; a stage begins just before its first one."""
    shown, left = stages(console), iter(times)
    shown.get_time = lambda: shown.now
    shown.now, shown.began, real = 0.0, 0.0, shown.report

    def report(stage: str, n_done: int, total: int) -> str | None:
        if stage not in [task.description for task in shown.tasks]:
            shown.add_task(stage, total=total, n_found=0, began=0.0)
        shown.now = next(left)
        return real(stage, n_done, total)

    shown.report = report
    return shown


def paced(*reports: tuple[float, int], total: int = 100) -> Task:
    """A stage that began at 0 and was told so many items at these times."""
    shown = watched(Console(file=io.StringIO()), [now for now, _ in reports])
    for _, n_more in reports:
        shown.report("traces: base", n_more, total)
    return shown.tasks[0]


def test_a_rate_is_items_over_seconds_since_work_began():
    assert rate(paced((0.0, 0), (2.0, 10), (4.0, 10))) == pytest.approx(5.0)


def test_what_was_found_there_has_no_part_in_the_rate():
    resumed = paced((0.0, 30), (0.05, 30), (10.05, 10))
    assert resumed.completed == 70
    assert rate(resumed) == pytest.approx(1.0)


def test_work_that_is_told_often_has_a_rate_too():
    assert rate(paced((0.0, 0), *((0.05 * step, 1) for step in range(1, 40)))) == pytest.approx(20.0, rel=0.1)


def test_without_work_there_is_no_rate_and_no_time_left():
    assert rate(paced((0.0, 0))) is None
    assert rate(paced((0.0, 100))) is None


@given(st.lists(st.tuples(st.floats(0.2, 10), st.integers(1, 50)), min_size=1, max_size=20))
def test_the_rate_times_the_time_is_the_work(steps):
    times = list(accumulate(seconds for seconds, _ in steps))
    found = rate(paced(*zip(times, [n_more for _, n_more in steps], strict=True), total=10_000))
    assert found is not None
    assert found * times[-1] == pytest.approx(sum(n_more for _, n_more in steps))


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
    assert ended(paced((2.0, 100))) == "traces: base                           100 in 2.0 s, 50/s"
    assert ended(paced((0.0, 100))) == "traces: base                           100 in 0.0 s"


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
    shown = watched(console, [1.0, 2.0])
    for stage in ("traces: fitted-disagreement-at-random", "policy gradient: other-task"):
        shown.report(stage, 123_456, 12_345_678)
    console.print(shown.get_renderable())
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 3, lines
    assert all(" 123456/12345678" in line and line.rstrip().endswith("left") for line in lines[:2])


def test_what_an_encoding_lacks_is_shown_by_its_number(monkeypatch):
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", shown)
    Terminal(["doctor"]).say("half \ud83d and caf\xe9")
    shown.flush()
    assert shown.buffer.getvalue() == b"half \\ud83d and caf\\xe9\n"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("study --pair a b --out /home/me/runs --seed 1", "lab study --pair a b --out OUT --seed 1"),
        ("demo --out=/home/me/runs", "lab demo --out=OUT"),
        ("models list", "lab models list"),
    ],
)
def test_a_page_shows_the_command_without_where_its_results_went(words, shown):
    assert Terminal(words.split()).anywhere == shown
