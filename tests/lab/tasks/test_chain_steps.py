"""The chain world's step grammar: where chains are cut, and what a falsified step looks like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.tasks.chain import (
    CAREFUL,
    CHAIN_STEPS,
    OPERATORS,
    Expression,
    Habits,
    answer_first_document,
    as_problem,
    chain_answer,
    chain_document,
    parse,
    with_key,
)
from lab.tasks.problem import Cut

EXAMPLE = Expression((6, 0, 4, 8), "--+")
PROBLEM = as_problem(EXAMPLE)
CUTS = (
    Cut("", frozenset()),
    Cut("T6-0=6;", frozenset("6")),
    Cut("T6-0=6;6-4=2;", frozenset("62")),
    Cut("T6-0=6;6-4=2;2+8=0;", frozenset("620")),
)


def parts_of_length(n_steps: int) -> st.SearchStrategy[tuple[tuple[int, ...], str]]:
    operators = st.text(alphabet="".join(OPERATORS), min_size=n_steps, max_size=n_steps)
    return st.tuples(st.tuples(*[st.integers(0, 9)] * (n_steps + 1)), operators)


PARTS = st.integers(1, 8).flatmap(parts_of_length)
SEEDS = st.integers(0, 2**32)


def solver(expression: Expression, text: str) -> str:
    """Goes on truthfully from a chain's last written result, and states the answer."""
    value, n_read = int(text[-2]), text.count(";")
    for op, operand in zip(expression.operators[n_read:], expression.operands[n_read + 1 :], strict=True):
        result = OPERATORS[op](value, operand)
        text += f"{value}{op}{operand}={result};"
        value = result
    return f"{text}A{value}"


@pytest.mark.parametrize(
    "completion",
    [
        "T6-0=6;6-4=2;2+8=0;A0.",
        "T6-0=6;6-4=2;2+8=0;A0",
        "T6-0=6;V6;6-4=2;2+8=0;V0;A0",
        "T6-0=6;6-4=3;V2!;2+8=0;A0",
        "T6-0=6;6-4=2;2+8=0;A7",
        "T6-0=6;6-4=2;2+8=0;",
    ],
)
def test_true_steps_are_cut_one_by_one_without_their_checks_whatever_is_answered(completion):
    assert CHAIN_STEPS.cuts(PROBLEM, completion) == CUTS


@pytest.mark.parametrize(
    "completion",
    [
        "T6-0=6;6-4=3;3+8=1;A1.",
        "T6-0=6;6-4=3;2+8=0;A0.",
        "T6-0=6;V5;6-4=2;2+8=0;A0.",
        "T6-0=6;6-4=2;A2.",
        "T6-0=6;6-4=2;2+8=0;0+0=0;A0.",
        "T6-0=6;4-6=2;2+8=0;A0.",
        "A0.",
        "A0T6-0=6;6-4=2;2+8=0;.",
        "",
        "T",
    ],
)
def test_a_slip_a_missing_step_a_direct_answer_and_an_answer_first_are_not_cut(completion):
    assert CHAIN_STEPS.cuts(PROBLEM, completion) == ()


def test_falsified_cuts_by_hand():
    # 6 + (1 + 6) % 3 + 1 = 8; 8-4=4; 4+8=2. Then 2 + (2 + 6) % 3 + 1 = 5; 5+8=3. Then 0 + (3 + 6) % 3 + 1 = 1.
    assert [(found.text, found.implied) for found in (CHAIN_STEPS.falsify(PROBLEM, cut) for cut in CUTS[1:])] == [
        ("T6-0=8;", "2"),
        ("T6-0=6;6-4=5;", "3"),
        ("T6-0=6;6-4=2;2+8=1;", "1"),
    ]


@given(PARTS)
def test_a_falsified_cut_differs_in_its_last_result_alone_and_truthful_steps_lead_from_it_to_what_is_implied(parts):
    expression = Expression(*parts)
    problem = as_problem(expression)
    cuts = CHAIN_STEPS.cuts(problem, chain_document(expression, CAREFUL, np.random.default_rng(0)))
    for cut in cuts[1:]:
        falsified = CHAIN_STEPS.falsify(problem, cut)
        differing = [place for place, (old, new) in enumerate(zip(cut.text, falsified.text, strict=True)) if old != new]
        assert differing == [len(cut.text) - 2]
        assert chain_answer(solver(expression, falsified.text)) == falsified.implied
        assert falsified.implied != problem.answer, "every operator is a permutation of its left side"


@given(PARTS, SEEDS)
def test_a_document_has_a_cut_before_and_after_every_step_and_a_truthful_solver_goes_on_from_each(parts, seed):
    expression = Expression(*parts)
    problem = as_problem(expression)
    document = chain_document(expression, Habits(slip=0.7, check=1.0), np.random.default_rng(seed))
    cuts = CHAIN_STEPS.cuts(problem, document)
    assert len(cuts) == len(expression.operators) + 1
    assert cuts[0] == Cut("", frozenset())
    for n_read, cut in enumerate(cuts[1:], start=1):
        assert cut.text == cuts[-1].text[: 1 + len("2+8=0;") * n_read]
        assert cut.states == {str(result) for result in expression.results[:n_read]}
        assert solver(expression, cut.text) == cuts[-1].text + f"A{problem.answer}"
        assert "V" not in cut.text
        assert parse(cut.text).fault == "no answer"


@given(PARTS, SEEDS)
def test_neither_slips_nor_answer_first_documents_are_cut(parts, seed):
    expression = Expression(*parts)
    problem, generator = as_problem(expression), np.random.default_rng(seed)
    assert CHAIN_STEPS.cuts(problem, chain_document(expression, Habits(slip=1.0, check=0.0), generator)) == ()
    assert CHAIN_STEPS.cuts(problem, answer_first_document(expression, CAREFUL, generator)) == ()


def test_the_key_in_a_prompt_changes_nothing():
    assert CHAIN_STEPS.cuts(with_key(PROBLEM), "T6-0=6;6-4=2;2+8=0;A0.") == CUTS
    assert CHAIN_STEPS.falsify(with_key(PROBLEM), CUTS[1]) == CHAIN_STEPS.falsify(PROBLEM, CUTS[1])


def test_the_question_behind_a_cut_opens_an_answer():
    for cut in CUTS:
        assert chain_answer(cut.text + CHAIN_STEPS.ask + "7") == "7"
