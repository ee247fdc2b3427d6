"""The choice among candidates, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError
from lab.sampling.trace import Decoding, Trace
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem, Verdict
from lab.tasks.source import Task
from lab.test_time.choice import CANDIDATES, Fitting, LeftOut, Temperature, Tried, choose, require_apart
from lab.test_time.method import Asked, tokens_written

PROBLEMS = tuple(Problem(id=f"p{n}", prompt="?", answer=str(n), family="all", source="test") for n in range(4))


def verify(problem: Problem, text: str) -> Verdict:
    """Right answers end with the gold one; a process with `!` is invalid."""
    return Verdict(
        answer_correct=text.endswith(problem.answer), process_valid="!" not in text, reason="test", read_by="whole"
    )


def traces(*texts: str) -> list[Trace]:
    """The same number of texts for each problem, in order."""
    n_samples = len(texts) // len(PROBLEMS)
    return [
        Trace(
            problem_id=PROBLEMS[place // n_samples].id,
            sample_index=place % n_samples,
            tokens=tuple(text.encode()),
            logprobs=(),
            routes=(),
            categories=(),
            content_bits=(),
            text=text,
            stop="eos",
        )
        for place, text in enumerate(texts)
    ]


RIGHT, SHAM = traces("0", "1", "2", "x"), traces("!0", "!1", "!2", "!3")
HALF = traces("0", "x", "1", "x", "2", "x", "x", "x")


def test_strict_accuracy_decides_and_right_answers_of_invalid_process_count_nothing():
    choice = choose(
        [Tried("a", "sham", SHAM), Tried("b", "half", HALF), Tried("c", "right", RIGHT)], PROBLEMS, verify, seed=0
    )
    assert choice.chosen == "c"
    assert CANDIDATES.checked(choice.table)["strict"].to_list() == [0.0, 0.375, 0.75]
    assert choice.table["n_samples"].to_list() == [1, 2, 1]
    assert choice.table["n_tokens"].to_list() == [8, 8, 4]
    assert (choice.table["low"] <= choice.table["strict"]).all()
    assert (choice.table["high"] >= choice.table["strict"]).all()


def test_the_first_of_equals_is_chosen_even_at_zero():
    assert choose([Tried(1, "one", RIGHT), Tried(2, "two", RIGHT)], PROBLEMS, verify, seed=0).chosen == 1
    assert choose([Tried(1, "one", SHAM), Tried(2, "two", SHAM)], PROBLEMS, verify, seed=0).chosen == 1


def test_what_is_left_out_is_never_chosen_and_says_why():
    choice = choose([Tried(1, "one", LeftOut("too long")), Tried(2, "two", SHAM)], PROBLEMS, verify, seed=0)
    assert choice.chosen == 2
    row = choice.table.row(0, named=True)
    assert (row["left_out"], row["n_samples"], row["n_tokens"], row["chosen"]) == ("too long", None, 0, False)
    assert np.isnan([row["strict"], row["low"], row["high"]]).all()


@pytest.mark.parametrize(
    ("tried", "reason"), [([Tried(1, "one", LeftOut("too long"))], "one: too long"), ([], "none listed")]
)
def test_a_choice_of_nothing_is_refused(tried, reason):
    with pytest.raises(EstimateError, match=rf"no candidate can be tried \({reason}\)"):
        choose(tried, PROBLEMS, verify, seed=0)


def test_choosing_on_measured_problems_is_refused():
    require_apart(Fitting(problems=PROBLEMS[:2]), PROBLEMS[2:])
    with pytest.raises(EstimateError, match=r"1 of 3 problems \('p1', ...\) would be both chosen on and measured"):
        require_apart(Fitting(problems=PROBLEMS[:2]), PROBLEMS[1:])


def test_tokens_are_counted_by_problem_in_the_order_asked():
    assert tokens_written(traces("0", "xx", "1", "x", "222", "x", "", "x"), PROBLEMS[::-1]) == (1, 4, 2, 3)


def test_a_temperature_is_chosen_by_what_is_written_at_it():
    model = tiny_model(seed=5)
    greedy_first: list[str] = []

    def judge(problem: Problem, text: str) -> Verdict:
        """Right is what greedy decoding writes; it is listed first, so it is seen first."""
        greedy_first.append(text)
        return Verdict(answer_correct=text == greedy_first[0], process_valid=None, reason="test", read_by="whole")

    method = Temperature(temperatures=(0.0, 3.0), fitting=Fitting(problems=PROBLEMS, n_samples=4))
    task = Task(name="greedy", problems=PROBLEMS, judge=replace(MATH, verify=judge))
    asked = Asked(model=model, task=task, problems=PROBLEMS, decoding=Decoding(max_new_tokens=6), seed=0)
    choice = method.choose(asked)
    assert choice.chosen == 0.0
    assert choice.table["n_samples"].to_list() == [1, 4]
    assert choice.table["candidate"].to_list() == ["temperature 0", "temperature 3"]
    assert choice.table["strict"][0] == 1.0
