"""Mixes of chain tasks, and how they are typed."""

from math import nextafter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import TaskError
from lab.tasks.chain import CHAIN_STEPS, as_expression
from lab.tasks.source import ChainMix, ChainPart, ChainTask, open_task, task_source

LOCKED, MISSING = ChainTask(operators="#", lengths=(3, 5)), ChainTask(operators="*", lengths=(3, 5))
QUARTER = ChainMix((ChainPart(25.0, LOCKED), ChainPart(75.0, MISSING)))
TYPED = "25%chain:#:3-5,75%chain:*:3-5"


def generator_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def of_operators(problems, operators: str) -> list[bool]:
    return [set(as_expression(problem).operators) <= set(operators) for problem in problems]


@pytest.mark.parametrize("percent", [10.0, 25.0, 50.0, 75.0])
def test_problems_come_from_each_part_in_its_proportion(percent):
    mix = ChainMix((ChainPart(percent, LOCKED), ChainPart(100 - percent, MISSING)))
    inside = of_operators(mix.problems(2000, generator_of(1)), "#")
    assert abs(np.mean(inside) - percent / 100) < 4 * np.sqrt(percent / 100 * (1 - percent / 100) / 2000)


def test_the_parts_are_shuffled_and_not_dealt_in_turn():
    inside = np.array(of_operators(ChainMix((ChainPart(50.0, LOCKED), ChainPart(50.0, MISSING))).problems(
        2000, generator_of(2)), "#"))  # fmt: skip
    assert abs(np.mean(inside[1:] == inside[:-1]) - 0.5) < 4 * np.sqrt(0.25 / 1999)


def test_problems_are_distinct_held_out_and_their_families_name_part_and_length():
    problems = QUARTER.problems(300, generator_of(0))
    assert len({problem.id for problem in problems}) == len({problem.prompt for problem in problems}) == 300
    assert all(as_expression(problem).held_out for problem in problems)
    for problem in problems:
        operators = as_expression(problem).operators
        assert problem.family == f"{operators[0]}, {len(operators)} steps"
        assert 3 <= len(operators) <= 5
    assert len({problem.family for problem in problems}) == 6


def test_the_training_side_has_no_held_out_problem():
    training = QUARTER.problems(300, generator_of(0), held_out=False)
    assert not any(as_expression(problem).held_out for problem in training)


def test_fewer_problems_are_the_first_of_more_and_seeds_decide():
    problems = QUARTER.problems(200, generator_of(7))
    assert QUARTER.problems(50, generator_of(7)) == problems[:50]
    assert QUARTER.problems(50, generator_of(8)) != problems[:50]


def test_a_problem_that_two_parts_can_draw_comes_once():
    both = ChainMix((ChainPart(50.0, ChainTask(operators="+", lengths=(1, 1))), ChainPart(50.0, ChainTask(
        operators="+-", lengths=(1, 1)))))  # fmt: skip
    n_held_out = len(
        {
            expression.text
            for expression, _ in zip(
                ChainTask(operators="+-", lengths=(1, 1)).expressions(generator_of(0), held_out=True),
                range(5000),
                strict=False,
            )
        }
    )
    problems = both.problems(n_held_out, generator_of(0))
    assert len({problem.prompt for problem in problems}) == n_held_out


def test_more_problems_than_a_mix_has_are_a_task_error():
    tiny = ChainMix((ChainPart(50.0, ChainTask(operators="#", lengths=(1, 1))), ChainPart(50.0, ChainTask(
        operators="*", lengths=(1, 1)))))  # fmt: skip
    with pytest.raises(TaskError, match=r"asked for 150 distinct problems of a mix, found \d+: want fewer"):
        tiny.problems(150, generator_of(0))


@pytest.mark.parametrize("percents", [(), (50.0,), (50.0, 49.0), (0.0, 100.0), (-20.0, 120.0), (float("nan"), 50.0)])
def test_parts_that_do_not_add_up_to_a_hundred_are_a_task_error(percents):
    tasks = (LOCKED, MISSING)
    with pytest.raises(TaskError, match="want positive parts that add up to 100"):
        ChainMix(tuple(ChainPart(percent, task) for percent, task in zip(percents, tasks, strict=False)))


def test_the_same_operators_twice_are_a_task_error():
    with pytest.raises(TaskError, match="same operators"):
        ChainMix((ChainPart(50.0, LOCKED), ChainPart(50.0, ChainTask(operators="#", lengths=(1, 2)))))


def test_what_a_user_types_is_a_mix_and_is_typed_back():
    assert task_source(TYPED) == QUARTER
    assert QUARTER.typed == TYPED
    assert task_source("100%chain") == ChainMix((ChainPart(100.0, ChainTask()),))


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 5))
def test_every_mix_comes_back_from_its_name(weights, fewest, more):
    scale = 100 / sum(weights)
    operators = ("#", "*", "+-", "+-#*")
    mix = ChainMix(
        tuple(
            ChainPart(weight * scale, ChainTask(operators=some, lengths=(fewest, fewest + more)))
            for weight, some in zip(weights, operators, strict=False)
        )
    )
    assert task_source(mix.typed) == mix


def test_percentages_keep_their_digits_in_a_name_and_have_no_exponent():
    third, tiny = 100 / 3, 1e-5
    thirds = ChainMix(tuple(ChainPart(third, ChainTask(operators=some)) for some in ("#", "*", "+")))
    assert task_source(thirds.typed) == thirds
    most = ChainMix((ChainPart(tiny, LOCKED), ChainPart(nextafter(100.0, 0) - tiny, MISSING)))
    assert task_source(most.typed) == most


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("25%chain:#:3-5,70%chain:*:3-5", "add up to 100"),
        ("50%chain:#,60%chain:*", "add up to 100"),
        ("50%chain:#:3-5,50%chain:#:1-2", "same operators"),
        ("50%chain:#,50%gym:chain_sum", "mix of chain tasks only"),
        ("50%chain:#,50%some/file.jsonl", "mix of chain tasks only"),
        ("50%chain:#,chain:*", "mix of chain tasks only, each with its percentage"),
        ("50%chain:#,", "mix of chain tasks only"),
        ("100%100%chain:#", "mix of chain tasks only"),
        ("50%chain:x,50%chain:#", "chain operators 'x'"),
        ("50%sums,50%chain:#", "mix of chain tasks only"),
        ("-5%chain:#,105%chain:*", "mix of chain tasks only"),
        ("%chain:#", "is not one of"),
        ("1e2%chain:#", "is not one of"),
    ],
)
def test_a_mix_that_cannot_be_is_a_task_error_in_one_line(text, words):
    with pytest.raises(TaskError, match=words) as caught:
        task_source(text)
    assert "\n" not in str(caught.value)


def test_a_file_whose_name_has_a_comma_is_still_a_file():
    assert task_source("a,b.jsonl").typed == "a,b.jsonl"


def test_an_opened_mix_is_judged_as_chains_are():
    task = open_task(QUARTER, n_problems=20, seed=0)
    assert task.name == TYPED
    assert task.steps is CHAIN_STEPS
    problem = task.problems[0]
    assert task.verify(problem, f"A{problem.answer}").answer_correct
    assert task.read_answer("A7") == "7"
    assert not task.same_answer("7", "07")
    training = open_task(QUARTER, n_problems=200, seed=0, held_out=False)
    assert {problem.id for problem in training.problems}.isdisjoint(problem.id for problem in task.problems)
