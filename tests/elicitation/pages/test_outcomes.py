"""What became of completions, and what of the gain is reading and stopping, in words."""

import re

import polars as pl
import pytest

from elicitation.calibration.record import NOT_MEASURED
from elicitation.pages.study.ladder import answer_sentence
from elicitation.pages.study.outcomes import outcomes_block, reading_sentence
from elicitation.pages.study.tables import ReportTables


def with_reading(ladder: pl.DataFrame, gain: float, low: float, high: float) -> pl.DataFrame:
    """The ladder with its prompt as the rung of reading."""
    read = pl.col("arm") == "prompt"
    values = {"role": pl.lit("reading"), "gain": gain, "gain_low": low, "gain_high": high}
    return ladder.with_columns(
        pl.when(read).then(value).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


def plain(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text).replace("\u202f", " ").replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("gain", "low", "high", "said"),
    [
        (0.03, 0.01, 0.05, "Of the gain of +64.4 points, +3.0 [1.0, 5.0] are reading and stopping."),
        (0.10, -0.01, 0.2, "Of the gain of +64.4 points, +10.0 [−1.0, 20.0] are reading and stopping."),
        (0.01, -0.01, 0.03, ""),
    ],
)
def test_the_part_that_is_reading_is_said_where_it_matters(tables: ReportTables, gain, low, high, said):
    ladder = with_reading(tables.ladder, gain, low, high)
    assert plain(reading_sentence(ladder)) == said
    assert plain(reading_sentence(ladder, always=True))
    answer = answer_sentence(ladder, NOT_MEASURED, "chain", "zero-base", "zero-rl", "")
    assert plain(answer).endswith(said or "[30.1, 33.5].") == bool(said)


def test_a_ladder_without_that_rung_says_nothing_of_reading(tables: ReportTables):
    assert reading_sentence(tables.ladder, always=True) == ""


def test_outcomes_are_folded_and_the_two_models_said_where_many_are_cut(tables: ReportTables):
    block = outcomes_block(tables.outcomes, with_reading(tables.ladder, 0.1, 0.05, 0.15))
    text = plain(block)
    assert "Completions of zero-base: 36.1 % right, 57.5 % wrong, 2.6 % without an answer, 3.8 % cut" in text
    assert "the tuned model's own completions are right in 97.1 %" in text.replace("&#x27;", "'").replace("&#39;", "'")
    few = tables.outcomes.with_columns(no_answer=0.0, cut=0.01)
    assert "Completions of zero-base" not in plain(outcomes_block(few, tables.ladder))
    assert block.count("<details") == 1
    assert outcomes_block(tables.outcomes.clear(), tables.ladder) == ""
