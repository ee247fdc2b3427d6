"""Spans of chain completions: by hand, on written documents, and on any text."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import TaskError
from lab.tasks.chain import CHAIN_STEPS, Expression, Habits, as_problem, chain_document, spans, verify
from lab.tasks.problem import Problem

PROBLEM = as_problem(Expression((6, 0, 4, 8), "--+"))


def labelled(completion: str, problem: Problem = PROBLEM) -> list[tuple[str, str]]:
    return [(completion[span.start : span.end], span.label) for span in spans(problem, completion)]


def test_a_worked_chain_falls_into_its_parts():
    assert labelled("T6-0=6;V6;6-4=3;V2!;2+8=0;A0.") == [
        ("T", "open"),
        ("6-0=6;", "step"),
        ("V6;", "check"),
        ("6-4=3;", "slip"),
        ("V2!;", "mend"),
        ("2+8=0;", "step"),
        ("A0", "answer"),
    ]


def test_the_chain_world_names_these_spans_in_its_grammar():
    assert CHAIN_STEPS.spans is spans


@pytest.mark.parametrize(
    ("completion", "wanted"),
    [
        ("A0.", ["direct"]),
        ("A0", ["direct"]),
        ("TA0.", ["open", "direct"]),
        ("A0T6-0=6;6-4=2;2+8=0;.", ["direct", "open", "step", "step", "step"]),
        ("T6-0=6;A6A7", ["open", "step", "answer", "answer"]),
        # An unmended slip is carried on, and what follows is judged against it.
        ("T6-0=7;7-4=3;3+8=1;A1.", ["open", "slip", "step", "step", "answer"]),
        ("T6-0=7;6-4=2;2+8=0;A0.", ["open", "slip", "slip", "step", "answer"]),
        # Another operator or operand than the problem's, though the equation is true.
        ("T6+0=6;6-5=1;", ["open", "slip", "slip"]),
        # One step too many, and an operator of no world.
        ("T6-0=6;6-4=2;2+8=0;0+0=0;", ["open", "step", "step", "step", "slip"]),
        ("T6é0=6;", ["open", "slip"]),
        # A check is called by its form even if it is wrong.
        ("T6-0=6;V5;", ["open", "step", "check"]),
    ],
)
def test_labels_by_hand(completion, wanted):
    assert [label for _, label in labelled(completion)] == wanted


@pytest.mark.parametrize(
    ("completion", "n_read"),
    [("T6-0=6;6-4", 7), ("T6-0=6; 6-4=2;", 7), ("xT6-0=6;", 0), ("T6-0=6;T6-4=2;", 7), ("T6-0=6;A٣", 7), ("", 0)],
)
def test_nothing_behind_a_break_of_the_grammar_is_labelled(completion, n_read):
    assert "".join(text for text, _ in labelled(completion)) == completion[:n_read]


@given(st.text(alphabet="T6-0=;V!A.<?", max_size=40) | st.text(max_size=20))
def test_any_text_is_read_and_spans_lie_side_by_side_from_its_start(completion):
    found = spans(PROBLEM, completion)
    assert [span.start for span in found] == [0, *[span.end for span in found]][: len(found)]
    assert all(span.start < span.end <= len(completion) for span in found)


@given(st.integers(0, 2**32), st.tuples(*[st.integers(0, 9)] * 5), st.text("+-#*", min_size=4, max_size=4))
def test_a_written_document_is_labelled_whole_and_is_valid_when_every_slip_has_its_mend(seed, operands, operators):
    problem = as_problem(Expression(operands, operators))
    document = chain_document(Expression(operands, operators), Habits(slip=0.3, check=0.5), np.random.default_rng(seed))
    found = labelled(document, problem)
    assert "".join(text for text, _ in found) + "." == document
    labels = [label for _, label in found]
    assert labels[0] == "open"
    assert labels[-1] == "answer"
    assert labels.count("step") + labels.count("slip") == 4
    mended = all(after == "mend" for label, after in pairwise(labels) if label == "slip") and labels.count(
        "slip"
    ) == labels.count("mend")
    assert verify(problem, document).process_valid == mended


def test_a_problem_of_another_world_is_refused():
    with pytest.raises(TaskError, match="not of the chain world"):
        spans(Problem(id="", prompt="2+2?", answer="", family="", source=""), "T2+2=4;")
