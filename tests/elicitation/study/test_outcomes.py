"""What became of completions, as a table."""

from math import isnan

from elicitation.study.arms import own_help_arms
from elicitation.study.config import OwnHelp
from elicitation.study.outcomes import outcome_table
from lab.sampling.trace import verdict_table
from lab.scoring.evidence import Role
from lab.tasks.chain import CHAIN
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from tests.elicitation.study.test_findings import answered

PROBLEMS = (Problem(id="p", prompt="2+3?", answer="5", family="", source=""),)
TEXTS = {"p": [r"\boxed{5}, or maybe \boxed{7}", "<think>The answer is 5. Or", "It is 7.", "I cannot tell"]}


def test_shares_of_outcomes_and_what_a_lenient_reading_changes():
    base = answered("base", TEXTS)
    of_base = (base.arm, base.traces, verdict_table(base.traces, PROBLEMS, MATH.verify))
    row = outcome_table([of_base], PROBLEMS, MATH).row(0, named=True)
    assert [row[name] for name in ("right", "wrong", "no_answer", "cut")] == [0.0, 0.5, 0.25, 0.25]
    assert row["lenient"] == 0.5
    assert row["n_completions"] == 4
    assert isnan(outcome_table([of_base], PROBLEMS, CHAIN)["lenient"][0])


def test_reading_is_a_rung_where_the_judge_can_read_leniently():
    task = Task(name="texts", problems=PROBLEMS, judge=MATH)
    first, second, *_ = own_help_arms(OwnHelp(), task, task)
    assert [first.role, second.role] == [Role.READING, Role.PROMPT]
    chains = Task(name="chains", problems=PROBLEMS, judge=CHAIN)
    assert all(arm.role != Role.READING for arm in own_help_arms(OwnHelp(), chains, task))
