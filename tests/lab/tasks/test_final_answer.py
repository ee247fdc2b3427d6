"""Which part of a text is its final answer."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.tasks.math_answer import as_ratio, final_answer, same_answer
from lab.tasks.stated_answer import last_boxes, tidied


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so $\boxed{42}$, since 6 times 7 is 42 and not 43", "42"),
        (r"\boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{7} and then \boxed{8", "7"),
        (r"\boxed{7} #### 8", "7"),
        ("6 * 7 = 42\n#### 42\n", "42"),
        ("#### 1\n#### $1,000.", "1,000"),
        ("The answer is 42. I checked 43 too.", "42"),
        ("The answer is: **42**", "42"),
        ("The answer is 18 dollars.", "18"),
        ("The answer is $1,000.50.", "1,000.50"),
        ("The answer is 3 hundred", "3 hundred"),
        ("The answer is 42 or 43", "42 or 43"),
        ("The answer is not 42", "not 42"),
        ("The answer is x + 1.", "x + 1"),
        ("10-3=7", "7"),
        ("it drops to -7", "-7"),
        ("He pays 1,234.50", "1,234.50"),
        ("one half, 1/2", "1/2"),
        ("I see 12 birds. Then 15.", "15"),
        ("no idea", None),
        ("", None),
        (r"\boxed{}", None),
    ],
)
def test_the_final_answer_follows_the_first_rule_that_applies(text, answer):
    assert final_answer(text) == answer


@given(st.lists(st.sampled_from([*"\\{}$#*.-,/0123 \n", r"\boxed{", "####", "answer is ", "x"])))
def test_any_text_has_a_final_answer_or_none(parts):
    answer = final_answer("".join(parts))
    assert answer is None or answer == answer.strip()
    if answer is not None:
        as_ratio(answer)


def test_a_long_hostile_text_is_read_in_linear_time():
    for part in (r"\boxed{", "{", "#### ", "answer is ", "$", "1,", "-", "1/", "*", r"\("):
        text = part * 40_000
        final_answer(text), last_boxes(text), tidied(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", Fraction(1000)),
        ("-0.5", Fraction(-1, 2)),
        (".5", Fraction(1, 2)),
        ("+3/6", Fraction(1, 2)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"\dfrac{ 1 }{ 2 }", Fraction(1, 2)),
        (r"-\tfrac12", Fraction(-1, 2)),
        ("10,00", Fraction(10)),
        ("1/0", None),
        ("1 2", None),
        ("1e9", None),
        ("x", None),
        ("٣", None),
        ("9" * 2000, None),
    ],
)
def test_plain_numbers_have_an_exact_value(text, value):
    assert as_ratio(text) == value


@given(st.text(), st.text())
def test_sameness_of_any_texts_is_symmetric_and_holds_for_equal_ones(text, other):
    assert same_answer(text, text)
    assert same_answer(text, other) == same_answer(other, text)
