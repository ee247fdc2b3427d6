"""Sentences, numerals, the terminal summary and the schemas."""

import math

import polars as pl
import pytest
from rich.console import Console

from lab.errors import StorageError
from lab.report.answer import answer_sentence
from lab.report.ledger import SCHEMAS, Ledger
from lab.report.numerals import bits, interval, percent, points
from lab.report.summary import summary


def said(ladder: pl.DataFrame) -> str:
    return (
        answer_sentence(ladder, "held-out chain", "zero-base", "zero-rl").replace("\u202f", " ").replace("\u00a0", " ")
    )


def test_the_answer_names_the_best_free_rung_and_its_best_control(ledger: Ledger):
    ladder = ledger.ladder.filter(~pl.col("arm").is_in(["routed", "routed.schedule"]))
    assert said(ladder) == (
        "On 200 held-out chain problems zero-rl solves 94.6 % where zero-base solves 30.2 %; one fitted "
        "steering vector recovers 61 % [56, 66] of that gain with no information from the tuned model at test time "
        "(the best of 3 such methods); its control, vector fitted on an unrelated target, 5 % [0, 10]."
    )


def test_a_refused_share_is_said_to_be_refused(refused: Ledger):
    assert said(refused.ladder).startswith("No share can be given: the gap of 1.2 points")
    assert "recovers" not in said(refused.ladder)


def test_a_rung_that_meets_its_control_is_not_called_a_success(ledger: Ledger):
    level = ledger.ladder.with_columns(
        share_high=pl.when(pl.col("arm") == "routed.schedule").then(0.66).otherwise("share_high")
    )
    assert "not clearly more than its control" in said(level)


def test_a_rung_without_control_says_so(ledger: Ledger):
    assert "no control" in said(ledger.ladder.filter(pl.col("kind") != "control"))


def test_an_interval_over_nought_is_said_to_include_none(ledger: Ledger):
    only = ledger.ladder.filter(pl.col("arm").is_in(["base", "prompt", "tuned"]))
    only = only.with_columns(share_low=pl.when(pl.col("arm") == "prompt").then(-0.01).otherwise("share_low"))
    assert "includes none" in said(only)


def test_help_from_the_tuned_model_is_priced_in_bits(ledger: Ledger):
    only = ledger.ladder.filter(pl.col("arm").is_in(["base", "gate", "takeover", "tuned"]))
    assert "with 0.29 bits per token from the tuned model" in said(only)


def test_a_ladder_of_two_ends_gives_no_share(ledger: Ledger):
    assert "no kind of help" in said(ledger.ladder.filter(pl.col("kind") == "end"))


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


@pytest.mark.parametrize("width", [100, 120])
def test_the_summary_shows_every_arm_in_a_terminal(ledger: Ledger, width: int):
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(summary(ledger.ladder))
    text = console.export_text()
    console.file.close()
    assert "94.6" in text
    assert all(word in text for word in ("zero-base", "takeover", "norm-matched"))


def test_the_summary_spells_out_a_refusal_and_reads_no_markup(refused: Ledger):
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


def test_a_ledger_refuses_a_table_of_another_schema(ledger: Ledger):
    tables = {schema.name: getattr(ledger, schema.name) for schema in SCHEMAS}
    with pytest.raises(StorageError, match="guess"):
        Ledger(**(tables | {"guess": ledger.pass_at_k}))
