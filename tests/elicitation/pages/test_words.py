"""Sentences, numerals, the terminal summary and the schemas."""

import dataclasses
import math

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from elicitation.calibration.record import NOT_MEASURED
from elicitation.pages.features.figures import AUROC
from elicitation.pages.kit.numerals import (
    PERCENT,
    bits,
    changes,
    figures,
    fixed,
    interval,
    percent,
    points,
    signed,
    span,
)
from elicitation.pages.kit.table import ROOM_FOR_ALL
from elicitation.pages.study.ladder import answer_sentence, summary
from elicitation.pages.study.tables import LADDER, SCHEMAS, ReportTables
from lab.records.errors import StorageError

NAN = math.nan


def said(ladder: pl.DataFrame, leaks: pl.DataFrame = NOT_MEASURED) -> str:
    sentence = answer_sentence(ladder, leaks, "held-out chain", "zero-base", "zero-rl", "at temperature 1")
    return sentence.replace("\u202f", " ").replace("\u00a0", " ")


def changed(ladder: pl.DataFrame, arm: str, **values: float) -> pl.DataFrame:
    """The ladder with other numbers for one arm."""
    return ladder.with_columns(
        pl.when(pl.col("arm") == arm).then(pl.lit(value)).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def test_the_answer_names_the_best_free_rung_and_its_best_control(tables: ReportTables):
    ladder = tables.ladder.filter(~pl.col("arm").is_in(["routed", "routed.schedule"]))
    assert said(ladder) == (
        "On 200 held-out chain problems, at temperature 1, zero-rl solves 94.6 % where zero-base solves 30.2 %; one "
        "fitted steering vector recovers 61 % [56, 66] of that gain with no information from the tuned model at test "
        "time (the best of 3 such methods, its interval not adjusted for that choice), and beats its best control, "
        "“vector fitted on an unrelated target”, by +36.1 points [33.0, 39.2]."
    )


def test_a_refused_share_is_said_to_be_refused(refused: ReportTables):
    assert said(refused.ladder).startswith("No share can be given: the gap of 1.2 points")
    assert "recovers" not in said(refused.ladder)


def test_a_rung_that_meets_its_control_is_not_called_a_success(tables: ReportTables):
    level = changed(tables.ladder, "routed", over_control=0.01, over_control_low=-0.02, over_control_high=0.04)
    assert (
        "but does not clearly beat its best control, “random schedule at the same rate”: +1.0 points [−2.0, 4.0]"
        in (said(level))
    )
    worse = changed(tables.ladder, "routed", over_control=-0.03, over_control_low=-0.05, over_control_high=-0.01)
    assert "but does not beat its best control" in said(worse)


def test_a_control_without_a_difference_is_not_said_to_be_beaten(tables: ReportTables):
    unknown = changed(tables.ladder, "routed", over_control=math.nan, over_control_low=math.nan)
    assert "but could not be compared with its best control" in said(unknown)


def test_overlapping_intervals_do_not_hide_a_paired_difference(tables: ReportTables):
    assert "and beats its best control" in said(changed(tables.ladder, "routed.schedule", share_high=0.66))


def test_a_share_past_the_whole_gain_reads_naturally(tables: ReportTables):
    past = changed(tables.ladder, "routed", share=1.11, share_low=1.09, share_high=1.13)
    assert "recovers all of that gain and more: 111 % [109, 113], with no information" in said(past)
    level = changed(tables.ladder, "routed", share=1.02, share_low=0.95, share_high=1.09)
    assert "recovers all of that gain in the estimate: 102 % [95, 109], with no information" in said(level)


def test_sampling_may_be_left_unsaid(tables: ReportTables):
    sentence = answer_sentence(tables.ladder, NOT_MEASURED, "held-out chain", "zero-base", "zero-rl", "")
    assert sentence.startswith("On 200 held-out chain problems zero-rl solves")


def test_a_rung_without_control_says_so(tables: ReportTables):
    assert "no control" in said(tables.ladder.filter(pl.col("kind") != "control"))


def test_an_interval_over_nought_is_said_to_include_none(tables: ReportTables):
    only = tables.ladder.filter(pl.col("arm").is_in(["base", "prompt", "tuned"]))
    only = only.with_columns(share_low=pl.when(pl.col("arm") == "prompt").then(-0.01).otherwise("share_low"))
    assert "includes none" in said(only)


def test_help_from_the_tuned_model_is_priced_in_bits(tables: ReportTables):
    only = tables.ladder.filter(pl.col("arm").is_in(["base", "gate", "takeover", "tuned"]))
    assert "with 0.29 bits per token from the tuned model" in said(only)


def test_a_ladder_of_two_ends_gives_no_share(tables: ReportTables):
    assert "no kind of help" in said(tables.ladder.filter(pl.col("kind") == "end"))


def test_numerals_are_the_same_everywhere():
    assert percent(0.9461) == "94.6\u202f%"
    assert points(0.413) == "+41.3"
    assert points(-0.02, 0) == "−2"
    assert points(-0.0001) == "0.0"
    assert interval(-0.02, 0.06, 0) == "[−2,\u00a06]"
    assert (bits(0.0), bits(0.29), bits(math.inf)) == ("0", "0.29", "all")


def test_undefined_numerals_are_never_nought():
    assert {percent(math.nan), points(math.nan), bits(math.nan)} == {"–"}
    assert interval(math.nan, 1.0) == ""


@pytest.mark.parametrize("width", [100, 120, 130])
def test_the_summary_shows_every_arm_in_a_terminal(tables: ReportTables, width: int):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(summary(tables.ladder, width))
    text = console.export_text()
    console.file.close()
    assert "94.6" in text
    assert all(word in text for word in ("zero-base", "takeover", "norm-matched"))
    assert ("leak" in text) == ("not measured" in text) == (width >= ROOM_FOR_ALL)
    assert ("over control" in text) == ("+36.1 [33.0,\u00a039.2]" in text) == (width >= ROOM_FOR_ALL)


def test_the_summary_spells_out_a_refusal_and_reads_no_markup(refused: ReportTables):
    loud = refused.ladder.with_columns(label=pl.lit("[bold]x[/bold]\x1b[31m"))
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(summary(loud))
    text = console.export_text(styles=True)
    console.file.close()
    assert "[bold]x[/bold]␛[31m" in text
    assert "0.8 standard errors" in text


def test_every_column_of_every_table_says_what_it_means():
    for schema in SCHEMAS:
        assert len({column.name for column in schema.columns}) == len(schema.columns)
        assert all(column.meaning.endswith(".") for column in schema.columns)


def test_the_ladder_holds_its_controls_and_cuts_where_producers_put_them():
    names = [column.name for column in LADDER.columns]
    place = names.index("share_high")
    assert names[place + 1 : place + 4] == ["over_control", "over_control_low", "over_control_high"]
    assert names[names.index("control_of") + 1] == "family"
    assert names[names.index("bits_per_token") + 1 :][:5] == [
        "bits_low", "bits_high", "bits_per_problem", "bits_per_problem_low", "bits_per_problem_high",
    ]  # fmt: skip
    assert names[names.index("truncated") - 1] == "cost"


def test_report_tables_refuse_a_table_of_another_schema(tables: ReportTables):
    with pytest.raises(StorageError, match="guess"):
        dataclasses.replace(tables, guess=tables.pass_at_k)


@given(st.floats(-1e6, 1e6), st.integers(0, 6))
def test_a_fixed_numeral_reads_back_to_within_half_of_its_last_digit(value: float, digits: int):
    text = fixed(value, digits)
    assert abs(float(text.replace("−", "-")) - value) <= 0.5 * 10**-digits * (1 + 1e-9) + 1e-9
    assert not text.startswith("−0") or float(text.replace("−", "-")) != 0
    assert signed(value, digits).removeprefix("+") == text


def test_figures_are_three_whatever_the_size():
    assert [figures(value) for value in (0.0, 0.98765, 12.345, 1234.5, -0.5)] == [
        "0", "0.988", "12.3", "1\u202f234", "−0.5",
    ]  # fmt: skip
    assert [figures(value) for value in (3.2e-6, math.inf, -math.inf, NAN)] == ["3.2·10⁻⁶", "∞", "−∞", "–"]
    assert span(0.5, NAN) == ""
    assert span(-0.5, 0.25) == "[−0.5,\u00a00.25]"


@given(st.lists(st.one_of(st.floats(-5, 5), st.just(NAN)), max_size=6))
def test_an_axis_of_changes_holds_no_change_and_every_value(values: list[float]):
    start, stop = changes(values).reach(values)
    assert start <= 0 < stop
    assert all(start <= value <= stop for value in values if not math.isnan(value))


def test_changes_are_written_with_as_many_decimals_as_the_largest_needs():
    assert [changes([size]).write(0.01234) for size in (30.0, 1.2, 0.4, 0.03)] == [
        "+0.01",
        "+0.01",
        "+0.012",
        "+0.0123",
    ]
    assert changes([]).write(0.5) == "+0.50"
    assert changes([1.0]).span(-0.1, 0.2) == "[−0.10,\u00a00.20]"


def test_a_percent_axis_never_runs_far_past_all():
    assert PERCENT.reach([0.99]) == (0.0, 101.5)
    assert PERCENT.reach([0.5]) == pytest.approx((0.0, 54.0))
    assert AUROC.reach([0.4, 0.9])[0] < 0.4 < 0.9 < AUROC.reach([0.4, 0.9])[1]
