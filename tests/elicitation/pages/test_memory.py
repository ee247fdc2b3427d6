"""The page says what the checks for memory found, and nothing where there were none."""

from dataclasses import replace

import pytest

from elicitation.pages.study.contamination import CONTAMINATION, memory_section, memory_sentence, signs
from elicitation.pages.study.page import render


def checked(check: str, value: float, control: float, half: float = 0.05, *, model: str = "zero-base") -> dict:
    difference = value - control
    return {
        "check": check,
        "setting": "from 2024" if check == "dates" else "first 60 %",
        "role": "base",
        "model": model,
        "n_problems": 50,
        "value": value,
        "low": value - half,
        "high": value + half,
        "n_control": 40,
        "control": control,
        "control_low": control - half,
        "control_high": control + half,
        "difference": difference,
        "difference_low": difference - half,
        "difference_high": difference + half,
    }


QUIET = [
    checked("exact", 0.0, 0.0),
    checked("overlap", 0.6, 0.1),
    checked("numbers", 0.4, 0.42),
    checked("wording", 0.5, 0.5),
    checked("dates", 0.5, 0.45),
]


def test_nothing_is_said_where_nothing_was_checked(page):
    assert memory_sentence(CONTAMINATION.frame([])) == ""
    text = render(page)
    assert "Can it be memory?" not in text
    assert "<dt>Memory</dt>" not in text


def test_checks_that_found_nothing_say_so_with_their_numbers(page):
    table = CONTAMINATION.frame(QUIET)
    assert signs(table) == [False] * 5
    said = memory_sentence(table)
    assert said.startswith("No sign that the share measures memory (base, then tuned): of 50 questions, ")
    assert "from their first 60 %, 0\u202f% are completed (by chance 0\u202f%); " in said
    assert "50 copies with other numbers change accuracy by −2.0 [−7.0,\xa03.0] points; " in said
    assert said.endswith("by +5.0 [0.0,\xa010.0] points more than 40 before.")
    text = render(replace(page, contamination=table))
    assert "<dt>Memory</dt>" in text
    assert text.count("Rest of a question, word for word") == 1


SOLVES = "zero-base solves 30\u202f% [25,\xa035] of 50"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            checked("exact", 0.54, 0.0),
            "zero-base completes 54\u202f% [49,\xa059] of 50 questions, word for word, from their first 60 % "
            "(by chance 0\u202f%)",
        ),
        (checked("numbers", 0.3, 0.6), f"{SOLVES} copies with other numbers, and 60\u202f% of the originals"),
        (checked("wording", 0.3, 0.6), f"{SOLVES} copies in another order, and 60\u202f% of the originals"),
        (checked("dates", 0.3, 0.6), f"{SOLVES} problems from 2024, and 60\u202f% of 40 before"),
    ],
)
def test_what_speaks_for_memory_is_named(row, said):
    quiet = [each for each in QUIET if each["check"] != row["check"]]
    table = CONTAMINATION.frame([*quiet, row])
    assert signs(table) == [False] * 4 + [True]
    assert memory_sentence(table).startswith("The share may measure memory: " + said)


def test_an_interval_that_just_misses_nought_is_too_little_among_many():
    just = checked("numbers", 0.3, 0.36, half=0.055)
    assert signs(CONTAMINATION.frame([just])) == [True]
    assert signs(CONTAMINATION.frame([*QUIET, just]))[-1] is False


def test_the_name_of_a_model_cannot_write_into_the_page():
    table = CONTAMINATION.frame([checked("exact", 0.9, 0.0, model="<script>x</script>")])
    assert "<script>" not in memory_section(table)
