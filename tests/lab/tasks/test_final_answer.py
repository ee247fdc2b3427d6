"""Which part of a text is its final answer."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.tasks.math_answer import as_ratio, final_answer, same_answer, verify
from lab.tasks.problem import Problem
from lab.tasks.stated_answer import last_boxes, stated_answer, tidied


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
        ("The answer is 41.\nWait. The answer is 42.", "42"),
        ("Answer: 41\nAnswer: 42", "42"),
        ("The answer is 42.\nI hope the answer is correct.", "42"),
        ("The answer is:\n\\[\n42\n\\]\nI hope it helps, 100%", "42"),
        ("The answer is 42, not 41.", "42"),
        (r"I close my <think> tags. \boxed{42}", "42"),
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
        (r"**Answer:** $\frac12$", r"\frac12"),
        ("The answer is\n\n$$x + 1$$", "x + 1"),
        ("so $x <= 2$.", "x <= 2"),
        ("Thus x <= 2.", "x <= 2"),
        (r"It is \frac{3}{4}.", r"\frac{3}{4}"),
        ("a third of it, 2/3.", "2/3"),
        ("there are 1 000", "1 000"),
        (r"there are 9\,500", r"9\,500"),
        ("The answer is 70,000 dollars.", "70,000"),
        ("it drops to \u22127", "-7"),
        (r"so \boxed 2", "2"),
        (r"\boxed{3}, \boxed{5} and \boxed{7}", "3, 5, 7"),
        (r"first \boxed{3}. Then we see that it is \boxed{5}", "5"),
        (r"\boxed{4} \boxed{}", "4"),
        ("<b>Answer:</b> <i>4</i><br>", "4"),
        (r"<think>maybe \boxed{1}</think> It is \boxed{2}.", "2"),
        (r"<think>maybe \boxed{1}</think> I cannot tell", None),
        (r"a template opened it: \boxed{1}</think> 2", "2"),
        (r"<think>maybe \boxed{1}, or", None),
        (r"<think>one</think> \boxed{2} <think>or \boxed{3}", "2"),
        (r"[THINK]\boxed{1}[/THINK]\boxed{3}", "3"),
        (r"<|channel|>analysis<|message|>\boxed{1}<|end|><|start|>assistant<|channel|>final<|message|>\boxed{4}", "4"),
        ("It is 2/3. <|im_start|>user And 5?", "2/3"),
        ("$x=3$ or $x=4$", "x=3, x=4"),
        ("Even", "Even"),
        ("### Final Answer\n\n$5$\n\nThis confirms step 3.", "5"),
        ("<answer>5</answer> Note that 7 is wrong.", "5"),
        ("The answer is 5, because 2+3=5.", "5"),
        ("The answer is 5 (five).", "5"),
        ("The answer is:\n\n```latex\n\\frac{1}{2}\n```", r"\frac{1}{2}"),
        ("The answer is 5x.", "5x"),
        (r"The answer is \frac{1}{2} + 3.", r"\frac{1}{2} + 3"),
        ("so there are 2^10", "2^10"),
        ("he needs 3 1/2 cups", "3 1/2"),
        ("The answers are 1, 2, and 3.", "1, 2, and 3"),
        ("The correct option is C.", "C"),
        ("答案是18美元。", "18"),
        ("故选：C", "C"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\nThe answer is 5.<|eot_id|>", "5"),
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
    for part in (
        r"\boxed{",
        "{",
        "#### ",
        "answer is ",
        "$",
        "1,",
        "-",
        "1/",
        "*",
        r"\(",
        "<answer>",
        "final answer\n",
        "1 1/2 ",
        "1^",
    ):
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


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (r"\boxed{4}", "box"),
        ("#### 4", "hashes"),
        ("the answer is 4", "stated"),
        ("<b>Answer:</b> <i>4</i><br>", "stated"),
        ('we see <span class="x">that</span> there are <b>4</b>', "number"),
        ("x + 4", "whole"),
        ("we see that $x = 4$ holds there", "formula"),
        ("we see that there are 4", "number"),
    ],
)
def test_an_answer_says_by_which_rule_it_was_read(text, rule):
    assert stated_answer(text).read_by == rule


TRACES = Path(__file__).parents[4] / "shared" / "data" / "traces"


def judged(name):
    """(right verdict, our verdict) of every row that no other suite contests."""
    rows = [json.loads(line) for line in (TRACES / name).read_text(encoding="utf-8").splitlines()]
    for row in rows:
        if not row.get("contested"):
            problem = Problem(id="1", prompt="", answer=row["gold"], family="", source="")
            yield row["correct"], verify(problem, row["completion"]).answer_correct


@pytest.mark.real_data
@pytest.mark.skipif(not TRACES.is_dir(), reason="no public verdicts beside the checkout")
def test_verdicts_agree_with_those_of_public_suites_and_wrong_answers_stay_wrong():
    pairs = list(judged("verdict_triples.jsonl"))
    assert sum(wanted == came for wanted, came in pairs) >= 305, len(pairs)
    assert sum(not came for wanted, came in pairs if not wanted) >= 44
    assert all(wanted == came for wanted, came in judged("real_completions.jsonl"))
