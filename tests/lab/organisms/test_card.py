"""The measures of a card, on completions written by hand."""

from lab.organisms.card import card_page, figures
from lab.organisms.catalogue import ORGANISMS
from lab.tasks.chain_world import Expression, as_problem

PROBLEM = as_problem(Expression((6, 0, 4, 8), "--+"))


def values(text: str) -> dict[str, float]:
    rows = figures("+-", "sampled", [PROBLEM], [text], 1, by_family=False)
    return {row.measure: row.value for row in rows}


def test_an_answer_first_trace_with_a_wrong_answer_has_its_steps_and_no_valid_process():
    assert values("A1T6-0=6;6-4=2;2+8=0;.") == {"strict": 0, "answer": 0, "process": 0, "steps": 1, "chain": 1}


def test_the_measures_of_right_false_and_direct_completions():
    assert set(values("T6-0=6;6-4=2;2+8=0;A0.").values()) == {1.0}
    assert values("T6-0=6;6-4=3;3+8=1;A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 1}
    assert values("A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 0}


def test_the_page_has_a_column_for_every_measure():
    rows = figures("+-", "sampled", [PROBLEM], ["A1T6-0=6;6-4=2;2+8=0;."], 1, by_family=False)
    head, rule, line = card_page(ORGANISMS["zero-base"], rows, "made").splitlines()[-3:]
    assert "| process % | steps % | writes a chain % |" in head
    assert head.count("|") == rule.count("|") == line.count("|")
