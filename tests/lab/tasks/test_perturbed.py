"""A copy has numbers, or an order, that the original never had, and the answer that follows from them."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lab.tasks.chain import CHAIN, GUARDED_ALPHABET, OPERATORS, Expression, as_expression, as_problem, with_key
from lab.tasks.math_answer import MATH
from lab.tasks.perturbed import evaluated, perturbed
from lab.tasks.problem import Problem
from lab.tasks.question_rows import SUFFIX, QuestionRows
from lab.tasks.row_task import FileTask


def asking(question: str, answer: str, solution: str | None = None) -> Problem:
    prompt = question + SUFFIX
    return Problem(
        id="q", prompt=prompt, question=question, answer=answer, solution=solution, family="", source="", dated="2024"
    )


def copied(problem: Problem, seed: int = 0):
    return perturbed(problem, np.random.default_rng(seed))


SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.integers(1, 999)


@given(st.lists(NUMBERS, min_size=2, max_size=4), st.data(), SEEDS)
def test_a_copy_of_an_expression_has_the_value_that_python_gives_it(numbers, data, seed):
    text = str(numbers[0])
    for number in numbers[1:]:
        text += f" {data.draw(st.sampled_from('+-*/'))} {number}"
    value = evaluated(text)
    assert value is not None
    problem = asking(f"What is {text}?", str(value))
    copy = copied(problem, seed)
    assume(copy is not None)
    assert copy is not None
    assert copy.kind == "numbers"
    (asked,) = (copy.problem.asked.removeprefix("What is ").removesuffix("?"),)
    spelt = " ".join(word if word in "+-*/" else f"Fraction({word})" for word in asked.split())
    assert Fraction(copy.problem.answer) == eval(spelt)
    assert Fraction(copy.problem.answer) != value
    assert (Fraction(copy.problem.answer) >= 0) == (value >= 0)
    if value.denominator == 1:
        assert copy.problem.answer.lstrip("-").isdecimal()
    assert copy.problem.prompt == copy.problem.asked + SUFFIX
    assert copy.problem.id != problem.id
    assert copy.problem.asked != problem.asked
    assert copy.problem.dated is None


@given(st.integers(2, 20), st.integers(1, 50), st.integers(1, 20), SEEDS)
def test_the_answer_of_an_equations_copy_solves_it(slope, offset, root, seed):
    copy = copied(asking(f"Solve for x: {slope}x + {offset} = {slope * root + offset}.", str(root)), seed)
    assume(copy is not None)
    assert copy is not None
    left, right = copy.problem.asked.removeprefix("Solve for x: ").removesuffix(".").split("=")
    at = Fraction(copy.problem.answer)
    assert evaluated(left, x=at) == evaluated(right)
    assert at.denominator == 1
    assert at > 0


@given(st.integers(13, 400), st.integers(13, 99), st.integers(2, 9), SEEDS)
def test_a_copy_of_a_worked_story_has_the_answer_of_its_own_steps(eggs, sold, price, seed):
    kept, gold = eggs + sold, (eggs + sold) * price
    story = f"Ann has {eggs} eggs and buys {sold} more. She sells all at ${price}. What does she get?"
    solution = (
        f"{eggs} + {sold} = <<{eggs}+{sold}={kept}>>{kept}\nShe gets <<{kept}*{price}={gold}>>{gold}.\n#### {gold}"
    )
    copy = copied(asking(story, str(gold), solution), seed)
    if len({eggs, sold, price, kept, gold}) < 5:
        return
    assert copy is not None
    words = copy.problem.asked.split()
    first, second, third = int(words[2]), int(words[6]), int(words[12].strip("$."))
    assert int(copy.problem.answer) == (first + second) * third != gold
    assert (first, second, third) != (eggs, sold, price)
    assert (first < second) == (eggs < sold)
    assert copy.problem.solution is None


def test_a_story_whose_numbers_may_stand_for_something_else_keeps_them():
    robe = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many bolts in total does it take?"
    worked = "It takes 2/2=<<2/2=1>>1 bolt of white fiber\nSo it is 2+1=<<2+1=3>>3\n#### 3"
    assert copied(asking(robe, "3", worked)) is None
    # Where the operand comes from is not said.
    assert copied(asking("Bo has 17 cats. How many legs?", "51", "<<17*3=51>>51 #### 51")) is not None
    assert copied(asking("Bo has 17 cats. How many legs?", "102", "<<17*6=102>>102 #### 102")) is None
    # Steps that are untrue, and an answer that is not the last of them.
    assert copied(asking("Bo has 17 cats. How many legs?", "50", "<<17*3=50>>50 #### 50")) is None
    assert copied(asking("Bo has 17 cats. How many legs?", "9", "<<17*3=51>>51 #### 9")) is None


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Calculate $2^3 \\cdot 5$.", "40"),
        ("Simplify $\\frac{1}{5}\\cdot \\frac{8}{7}\\div \\frac{12}{20}$.", "\\frac{8}{21}"),
        ("What is 1,000 - 7?", "993"),
        ("What is the value of $x$ if $x - 7 = 2$?", "9"),
        ("If x/4 = 3, what is x?", "12"),
        ("Evaluate (2+3)(4)", "20"),
        ("Compute 0.5 * 2.5", "1.25"),
    ],
)
def test_expressions_and_equations_are_read_in_the_notations_of_benchmarks(question, answer):
    copy = copied(asking(question, answer))
    assert copy is not None
    assert copy.kind == "numbers"
    assert MATH.verify(copy.problem, rf"\boxed{{{copy.problem.answer}}}").answer_correct
    assert not MATH.verify(copy.problem, rf"\boxed{{{answer}}}").answer_correct


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is the sum of the digits of 12 * 7?", "12"),
        ("What is 12 * 7 rounded to the nearest ten?", "80"),
        ("What is 2x if x + 3 = 5?", "4"),
        ("Solve x * x = 9 for x.", "3"),
        ("What is 7?", "7"),
        ("What is 12 * 7 + 3?", "88"),
        ("What is " + "9" * 300 + " + 1?", "1"),
        ("How many positive whole-number divisors does 196 have?", "9"),
    ],
)
def test_what_a_rule_could_get_wrong_has_no_copy(question, answer):
    assert copied(asking(question, answer)) is None


def test_sentences_change_places_but_lean_on_the_same_ones_and_the_question_stays_last():
    story = "Ann has 3 cats. She has 2 dogs. Mr. Bo has $x$ fish. Cy has 9 birds. How many has Ann? Answer in words."
    copy = copied(asking(story, "five"))
    assert copy is not None
    assert (copy.kind, copy.problem.answer) == ("wording", "five")
    assert copy.problem.asked != story
    assert sorted(copy.problem.asked.split()) == sorted(story.split())
    assert "Ann has 3 cats. She has 2 dogs." in copy.problem.asked
    assert "Mr. Bo has $x$ fish." in copy.problem.asked
    assert copy.problem.asked.endswith("How many has Ann? Answer in words.")


@pytest.mark.parametrize(
    "question",
    [
        "Ann has cats. How many?",
        "Ann has cats. She has dogs. Then she has fish. How many?",
        "Look at the map. Which is it?\n\nA. One\nB. Two\nC. Three",
        "What is it? Say it. Say why.",
        "A jar has 20 sweets. Tom eats 5 sweets. Ann doubles what is left. How many has she?",
        "Sam writes 6. Kim doubles the number. Lee subtracts 3. What is it now?",
        "Sam writes 6. Kim adds 2. Lee takes 3. What is it now?",
        "Bo has 6 cats. Cy has twice as many. How many are there?",
        "A bag has 8 pens. Half are red. How many are not?",
        "Bo is 6. Cy has 9 cats. Di has three times that. How many?",
        "",
    ],
)
def test_a_question_with_nothing_to_change_places_has_no_copy(question):
    assert copied(asking(question, "1")) is None


@given(st.text(max_size=120), st.text(max_size=8), st.text(max_size=60), SEEDS)
def test_no_text_breaks_the_rules_or_comes_back_as_it_was(question, answer, solution, seed):
    problem = asking(question, answer, solution)
    copy = copied(problem, seed)
    assert copy is None or (copy.problem.asked != question and copy.problem.id != problem.id)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=9), st.text(st.sampled_from([*OPERATORS])), st.booleans(), SEEDS
)
def test_a_chains_copy_has_its_operators_its_side_and_the_answer_of_its_own_digits(digits, operators, keyed, seed):
    expression = Expression(tuple(digits), (operators + "+" * 9)[: len(digits) - 1])
    problem = with_key(as_problem(expression)) if keyed else as_problem(expression)
    assert CHAIN.perturb is not None
    copy = CHAIN.perturb(problem, np.random.default_rng(seed))
    assume(copy is not None)
    assert copy is not None
    new = as_expression(copy.problem)
    assert new.operators == expression.operators
    assert new.held_out == expression.held_out
    assert copy.problem.answer == str(new.results[-1]) != problem.answer
    assert copy.problem.id != problem.id
    assert {*copy.problem.prompt} <= {*GUARDED_ALPHABET}
    assert ("@" in copy.problem.prompt) == keyed


@pytest.mark.parametrize(
    ("row", "dated"),
    [
        ({"year": 2024}, "2024"),
        ({"year": 2024.0}, "2024"),
        ({"date": "2024-06-01T10:00:00Z"}, "2024-06-01"),
        ({"release_date": "2024/06/01"}, "2024-06-01"),
        ({"contest_date": "2024-06"}, "2024-06"),
        ({"date": "last June", "year": "2023"}, "2023"),
        ({"year": True}, None),
        ({}, None),
    ],
)
def test_a_row_says_when_its_problem_was_published(row, dated):
    given_row = row | {"question": "What is 2 + 2?", "answer": "It is <<2+2=4>>4.\n#### 4"}
    (problem,) = QuestionRows(source="f", stem="f").problems([(1, given_row)]).problems
    assert problem.dated == dated
    assert problem.asked == "What is 2 + 2?"
    assert problem.solution == given_row["answer"]


GSM8K = Path(__file__).parents[4] / "shared" / "data" / "tasks" / "gsm8k.openai.jsonl"


@pytest.mark.real_data
@pytest.mark.skipif(not GSM8K.exists(), reason="no public benchmark files beside the checkout")
def test_stories_of_gsm8k_get_other_numbers_and_answers_that_are_whole_where_the_old_ones_were():
    copies = [(one, copied(one, seed)) for seed, one in enumerate(FileTask(path=GSM8K).found().problems[:150])]
    numbers = [(one, copy.problem) for one, copy in copies if copy is not None and copy.kind == "numbers"]
    assert len(numbers) > 30
    for one, other in numbers:
        assert int(other.answer) != int(one.answer)
        assert [*map(str.isalpha, other.asked)].count(True) == [*map(str.isalpha, one.asked)].count(True)
