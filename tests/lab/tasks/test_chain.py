"""The chain world: operators, split, documents and the exact verifier."""

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import TaskError
from lab.tasks.chain import (
    ALPHABET,
    CAREFUL,
    GUARDED_ALPHABET,
    KEY,
    OPERATORS,
    Expression,
    Habits,
    answer_first_document,
    as_expression,
    as_problem,
    chain_document,
    direct_document,
    parse,
    process_fault,
    steps_fault,
    verify,
    with_key,
)
from lab.tasks.problem import Problem
from lab.tasks.source import ChainTask


def parts_of_length(n_steps: int) -> st.SearchStrategy[tuple[tuple[int, ...], str]]:
    operators = st.text(alphabet="".join(OPERATORS), min_size=n_steps, max_size=n_steps)
    return st.tuples(st.tuples(*[st.integers(0, 9)] * (n_steps + 1)), operators)


# Parts and not expressions, because the run-time type check inside a constructor draws random numbers, which Hypothesis
# forbids in strategies.
PARTS = st.integers(1, 8).flatmap(parts_of_length)


def generator_of(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


SEEDS = st.integers(0, 2**32)
SLOPPY = Habits(slip=0.5, check=0.5)
# 6-0=6, 6-4=2, 2+8=0
EXAMPLE = Expression((6, 0, 4, 8), "--+")
PROBLEM = as_problem(EXAMPLE)


@given(st.text())
def test_any_text_is_read_and_judged_without_raising(text):
    parse(text)
    assert verify(PROBLEM, text).reason


@given(PARTS, SEEDS, st.data())
def test_any_mutation_of_a_document_is_read_and_judged_without_raising(parts, seed, data):
    expression = Expression(*parts)
    document = chain_document(expression, SLOPPY, generator_of(seed))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(document)))
        drop = data.draw(st.integers(0, 2))
        document = document[:place] + data.draw(st.text(alphabet=ALPHABET, max_size=2)) + document[place + drop :]
    assert verify(as_problem(expression), document).reason


@given(PARTS, SEEDS)
def test_a_careful_chain_is_right_and_strict_with_or_without_its_full_stop(parts, seed):
    expression = Expression(*parts)
    document = chain_document(expression, CAREFUL, generator_of(seed))
    for text in (document, document.removesuffix(".")):
        verdict = verify(as_problem(expression), text)
        assert (verdict.answer_correct, verdict.process_valid, verdict.reason) == (True, True, "ok")
        assert verdict.strict


@given(PARTS)
def test_a_direct_answer_is_right_but_shows_no_process(parts):
    expression = Expression(*parts)
    verdict = verify(as_problem(expression), direct_document(expression))
    assert (verdict.answer_correct, verdict.process_valid, verdict.reason) == (True, False, "no steps")
    assert not verdict.strict


@given(PARTS, SEEDS)
def test_a_chain_whose_every_slip_is_mended_is_valid(parts, seed):
    expression = Expression(*parts)
    document = chain_document(expression, Habits(slip=0.7, check=1.0), generator_of(seed))
    assert verify(as_problem(expression), document).strict


@given(PARTS, SEEDS)
def test_a_chain_that_slips_at_every_step_unmended_is_invalid(parts, seed):
    expression = Expression(*parts)
    document = chain_document(expression, Habits(slip=1.0, check=0.0), generator_of(seed))
    verdict = verify(as_problem(expression), document)
    assert not verdict.process_valid
    assert "step 1 is false" in verdict.reason


@given(PARTS, SEEDS)
def test_an_answer_first_document_is_judged_by_its_steps_too(parts, seed):
    expression = Expression(*parts)
    document = answer_first_document(expression, CAREFUL, generator_of(seed))
    assert parse(document).answer_first
    assert verify(as_problem(expression), document).strict
    slipped = answer_first_document(expression, Habits(slip=1.0, check=0.0), generator_of(seed))
    verdict = verify(as_problem(expression), slipped)
    assert verdict.answer_correct
    assert not verdict.strict


def true_and_whole(expression: Expression, text: str) -> bool:
    """A second reading, independent of the verifier: true equations over the running value, then the answer."""
    if not text.startswith("T"):
        return False
    value, rest = expression.operands[0], text[1:]
    for op, operand in zip(expression.operators, expression.operands[1:], strict=True):
        truth = OPERATORS[op](value, operand)
        head, _, rest = rest.partition(";")
        mended = rest.startswith(f"V{truth}!;")
        if head != f"{value}{op}{operand}={truth}" and not (mended and head[:-1] == f"{value}{op}{operand}="):
            return False
        for check in (f"V{truth};", f"V{truth}!;"):
            if rest.startswith(check):
                rest = rest.removeprefix(check)
                break
        value = truth
    return rest in (f"A{value}.", f"A{value}")


@pytest.mark.parametrize("habits", [CAREFUL, Habits(slip=0.0, check=1.0), Habits(slip=1.0, check=1.0)])
def test_every_change_of_one_character_is_rejected_or_leaves_every_step_true(habits):
    gold = chain_document(EXAMPLE, habits, generator_of(3))
    assert true_and_whole(EXAMPLE, gold)
    n_accepted = 0
    for place in range(len(gold) + 1):
        for character in ["", *ALPHABET, " ", "x"]:
            for mutant in {gold[:place] + character + gold[place:], gold[:place] + character + gold[place + 1 :]} - {
                gold
            }:
                accepted = verify(PROBLEM, mutant).strict
                n_accepted += accepted
                if accepted:
                    assert true_and_whole(EXAMPLE, mutant), mutant
    # The full stop may go; a check may gain or lose its mark, and what a check mends may be any digit.
    assert n_accepted >= 1


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        ("T6-0=6;4-6=2;2+8=0;A0.", "copies"),
        ("T6-0=6;6-4=2;A2.", "2 steps for 3"),
        ("T6-0=6;2+8=0;A0.", "copies"),
        ("T6-0=6;6-4=2;2+8=0;A1.", "not the last result"),
        ("T6-0=6;6-4=2;2+8=0;", "no answer"),
        ("T6-0=6;6-4=2;2+8=0;A0A0.", "several answers"),
        ("A0T6-0=6;6-4=2;2+8=0;A0.", "several answers"),
        ("T6-0=6;V5;6-4=2;2+8=0;A0.", "check 1 is wrong"),
        ("T6-0=6;6-4=3;V3;2+8=0;A0.", "check 2 is wrong"),
        ("T6-0=6;6-4=3;V2;3+8=1;A1.", "step 2 is false"),
        ("T6-0=6;6-4=3;V2!;3+8=1;A1.", "copies"),
        ("T6-0=6;6-4=2;2+8=0;0+0=0;A0.", "4 steps for 3"),
        ("T6-0=6;6-4=2;2+8=0;A0. ", "unreadable"),
        ("T6-0=6;6-4=2;2+8=0;T6-0=6;A0.", "unreadable"),
        ("TT6-0=6;6-4=2;2+8=0;A0.", "unreadable"),
        ("T6-0=6;6-4=2;2+8=0;A10.", "unreadable"),
        ("A0.", "no steps"),
        ("", "no answer"),
    ],
)
def test_near_misses_have_no_valid_process_and_the_reason_is_named(completion, reason):
    verdict = verify(PROBLEM, completion)
    assert not verdict.strict
    assert reason in verdict.reason


@pytest.mark.parametrize(
    ("completion", "steps", "process"),
    [
        ("A0T6-0=6;6-4=2;2+8=0;.", None, None),
        ("A1T6-0=6;6-4=2;2+8=0;.", None, "answer is not the last result"),
        ("T6-0=6;6-4=2;2+8=0;", None, "answer is not the last result"),
        ("A0T6-0=6;6-4=3;V2!;2+8=0;.", None, None),
        ("A0T6-0=6;6-4=3;3+8=1;.", "step 2 is false", "step 2 is false"),
        ("A0T6-0=6;.", "1 steps for 3", "1 steps for 3"),
        ("A0.", "no steps", "no steps"),
    ],
)
def test_the_steps_are_judged_apart_from_the_answer(completion, steps, process):
    assert steps_fault(EXAMPLE, parse(completion)) == steps
    assert process_fault(EXAMPLE, parse(completion)) == process


def test_swapped_operands_are_a_fault_even_where_the_result_is_the_same():
    problem = as_problem(Expression((3, 4), "+"))
    assert verify(problem, "T3+4=7;A7.").strict
    assert not verify(problem, "T4+3=7;A7.").strict


@pytest.mark.parametrize("completion", ["A1.", "A0A1.", "A1A0.", "A0A0."])
def test_stating_several_answers_or_another_one_is_never_correct(completion):
    assert not verify(PROBLEM, completion).answer_correct


DIGITS = range(10)
Table = list[list[int]]


def table_of(operation) -> Table:
    return [[operation(left, right) for right in DIGITS] for left in DIGITS]


def is_latin(table: Table) -> bool:
    return all(set(line) == set(DIGITS) for lines in (table, zip(*table, strict=True)) for line in lines)


def agree_nowhere(table: Table, other: Table) -> bool:
    return all(table[left][right] != other[left][right] for left in DIGITS for right in DIGITS)


def test_each_invented_operator_is_a_latin_square_that_agrees_with_no_other():
    tables = {op: table_of(operation) for op, operation in OPERATORS.items()}
    assert "".join(tables) == "+-#*"
    for op, others in (("#", "+-*"), ("*", "+-#")):
        assert is_latin(tables[op])
        assert all(agree_nowhere(tables[op], tables[other]) for other in others)


def powers_that_fit(exponent: int) -> set[tuple[int, int, int]]:
    """Every (a, b, c) for which (a l + b r + c) ** exponent is a Latin square that agrees nowhere with + - and #."""
    known = [table_of(OPERATORS[op]) for op in "+-#"]
    found = set()
    for a, b, c in itertools.product(DIGITS, repeat=3):
        table = table_of(lambda left, right, a=a, b=b, c=c: (a * left + b * right + c) ** exponent % 10)
        if is_latin(table) and all(agree_nowhere(table, other) for other in known):
            found.add((a, b, c))
    return found


def test_no_linear_form_but_a_shifted_one_of_the_first_operator_agrees_with_none_and_a_cube_does():
    assert powers_that_fit(1) == {(3, 7, shift) for shift in (3, 5, 7, 9)}
    assert powers_that_fit(2) == set()
    assert (7, 3, 3) in powers_that_fit(3)
    assert OPERATORS["*"](2, 5) == (7 * 2 + 3 * 5 + 3) ** 3 % 10 == 8
    # The second operator is no shift of the first: all differences occur but those that would be an agreement.
    differences = {
        (OPERATORS["*"](left, right) - OPERATORS["#"](left, right)) % 10 for left in DIGITS for right in DIGITS
    }
    assert len(differences) > 1


@given(PARTS)
def test_the_key_changes_the_prompt_and_nothing_else_of_a_problem(parts):
    problem = as_problem(Expression(*parts))
    keyed = with_key(problem)
    assert keyed.prompt == f"<{KEY}{problem.prompt[1:]}"
    assert as_expression(keyed) == as_expression(problem)
    assert replace(keyed, prompt=problem.prompt) == problem
    assert verify(keyed, f"A{problem.answer}.") == verify(problem, f"A{problem.answer}.")


def test_the_alphabets_have_every_character_once_and_differ_by_the_second_operator_and_the_key():
    assert set(GUARDED_ALPHABET) - set(ALPHABET) == {"*", "@"}
    assert len(set(GUARDED_ALPHABET)) == len(GUARDED_ALPHABET)
    assert GUARDED_ALPHABET.startswith(ALPHABET), "tokens of the first world keep their numbers in the second"


@given(PARTS)
def test_an_expression_comes_back_from_its_prompt(parts):
    expression = Expression(*parts)
    problem = as_problem(expression)
    assert as_expression(problem) == expression
    assert set(problem.prompt) <= set(GUARDED_ALPHABET)
    assert set(problem.prompt) <= set(ALPHABET) or "*" in expression.operators
    assert problem.answer == str(expression.results[-1])


@pytest.mark.parametrize(
    "prompt",
    ["", "<?", "<1+?", "<1x2?", "<1@2?", "<@@1+2?", "@<1+2?", "<1+2@?", "1+2", "<12+3?", "<1+2?\n", "What is 1+2?"],
)
def test_a_prompt_of_another_world_is_a_task_error(prompt):
    with pytest.raises(TaskError, match="not of the chain world"):
        as_expression(Problem(id="x", prompt=prompt, answer="3", family="", source=""))


@given(SEEDS, SEEDS)
def test_training_draws_never_meet_held_out_problems(seed, other_seed):
    task = ChainTask(operators="+-#", lengths=(1, 3))
    held_out = {problem.prompt for problem in task.problems(40, generator_of(seed))}
    draws = task.expressions(generator_of(other_seed), held_out=False)
    assert held_out.isdisjoint(f"<{next(draws).text}?" for _ in range(100))


def test_problems_are_distinct_and_the_same_whatever_the_global_generators_do():
    task = ChainTask(lengths=(1, 4))
    random.seed(1)
    first = task.problems(300, generator_of(7))
    random.seed(2)
    assert task.problems(300, generator_of(7)) == first
    assert len({problem.id for problem in first}) == 300
    assert task.problems(100, generator_of(7)) == first[:100]


def test_more_problems_than_the_world_has_are_a_task_error():
    with pytest.raises(TaskError, match="asked for 60 distinct"):
        ChainTask(operators="+", lengths=(1, 1)).problems(60, generator_of(0))


@pytest.mark.parametrize(
    "fields", [{"operators": ""}, {"operators": "x"}, {"operators": "@"}, {"lengths": (0, 3)}, {"lengths": (5, 4)}]
)
def test_an_impossible_world_is_a_task_error(fields):
    with pytest.raises(TaskError, match="want"):
        ChainTask(**fields)
