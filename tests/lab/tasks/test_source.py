"""What a user types for a task."""

import copy
import json
import operator
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lab.records.errors import TaskError
from lab.tasks.gym import GymTask
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.row_task import FileTask
from lab.tasks.source import JUDGES, SOURCES, ChainTask, open_task, task_source


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("chain", ChainTask()),
        ("chain:#", ChainTask(operators="#")),
        ("chain:+-#", ChainTask(operators="+-#")),
        ("chain:+-:3-8", ChainTask(operators="+-", lengths=(3, 8))),
        ("chain:*:3-5", ChainTask(operators="*", lengths=(3, 5))),
        ("chain:-:10-12", ChainTask(operators="-", lengths=(10, 12))),
        ("gym:chain_sum", GymTask(dataset="chain_sum")),
        (
            "gym:chain_sum:max_terms=3,allow_negation=true,suffix=",
            GymTask(dataset="chain_sum", config=(("max_terms", 3), ("allow_negation", True)), suffix=""),
        ),
        ("gym:a:b=0.5,c=d", GymTask(dataset="a", config=(("b", 0.5), ("c", "d")))),
        ("some/file.jsonl", FileTask(path=Path("some/file.jsonl"))),
        ("/a b/c:d.jsonl", FileTask(path=Path("/a b/c:d.jsonl"))),
    ],
)
def test_every_accepted_form_names_its_source_and_comes_back(text, source):
    assert task_source(text) == source
    assert task_source(source.typed) == source
    assert copy.deepcopy(source) == source
    assert hash(source) == hash(task_source(text))


@pytest.mark.parametrize(
    "text",
    ["", "Chain", "chain:", "chain:+-:", "chain:+:3", "chain:+:3-8:1", "gym:", "gym:a b", "gym:x.jsonl", "a.xml", "x"],
)
def test_anything_else_is_a_task_error_in_one_line_with_the_accepted_forms(text):
    with pytest.raises(TaskError, match=r"is not one of 'chain', .*gym:.*jsonl") as caught:
        task_source(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", ["", "max_terms", "=3", "max_terms=3,", "max_terms=3,,max_digits=1"])
def test_an_option_of_a_gym_dataset_without_a_name_or_a_value_is_a_task_error(options):
    with pytest.raises(TaskError, match="want name=value, such as max_terms=3"):
        task_source(f"gym:chain_sum:{options}")


@pytest.mark.parametrize("text", ["chain:x", "chain:@", "chain:+:8-3", "chain:+:0-3"])
def test_an_impossible_world_is_a_task_error(text):
    with pytest.raises(TaskError, match="want"):
        task_source(text)


@pytest.mark.parametrize("n_problems", [0, -1])
def test_an_empty_task_is_a_task_error(n_problems):
    with pytest.raises(TaskError, match="want at least 1"):
        open_task(task_source("chain"), n_problems=n_problems, seed=0)


def test_a_task_leaves_the_global_generators_alone_and_does_not_depend_on_them():
    # The run-time type check draws from `random` itself, so only numpy's generator can be compared.
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state(legacy=False)["state"]["key"].tolist()  # noqa: NPY002
    first = open_task(task_source("gym:pool_matrix"), n_problems=2, seed=0)
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == before  # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert open_task(task_source("gym:pool_matrix"), n_problems=2, seed=0) == first


def test_chain_answers_are_the_same_where_their_strings_are():
    task = open_task(task_source("chain"), n_problems=1, seed=0)
    assert task.same_answer("7", "7")
    assert not task.same_answer("7", "07")


def test_gym_and_jsonl_answers_are_the_same_as_text_or_as_exact_numbers(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"problem": "Problem {n}", "answer": "{n}"}}\n' for n in range(20)))
    for name in ("gym:chain_sum", str(file)):
        same = open_task(task_source(name), n_problems=1, seed=0).same_answer
        assert same("1/2", "0.5")
        assert same("1,000", "$1000$.")
        assert same("a b\nc", "a  b \nc")
        assert not same("a b c", "a b\nc")
        assert not same("0.333", "1/3")
        assert not same(r"\sqrt{8}", r"2\sqrt{2}")


def test_answers_of_several_lines_are_read_whole():
    task = open_task(task_source("gym:n_queens"), n_problems=3, seed=0)
    for problem in task.problems:
        assert "\n" in problem.answer
        for text in (f"Hm.\nAnswer:\n{problem.answer}\nDone.", f"Hm.\n{problem.answer}"):
            answer = task.read_answer(text)
            assert answer is not None
            assert task.same_answer(answer, problem.answer)
            assert task.verify(problem, text).answer_correct


def test_another_seed_draws_other_problems():
    tasks = [open_task(task_source("chain"), n_problems=5, seed=seed) for seed in (0, 1)]
    assert tasks[0].problems != tasks[1].problems


def test_naming_a_task_imports_nothing_heavy():
    code = "import sys, lab.tasks.source; print(*{'torch', 'sympy', 'math_verify', 'reasoning_gym'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@dataclass(frozen=True)
class Doubles:
    """A source of one's own: what is twice a number?"""

    typed: str = "doubles"

    def problems(self, n_problems, generator, *, held_out=True):
        numbers = generator.permutation(100)[:n_problems]
        return tuple(
            Problem(id=f"double:{n}", prompt=f"2 * {n} = ", answer=str(2 * n), family="all", source="doubles")
            for n in numbers
        )

    def judge(self, problems):
        return MATH


def test_a_source_of_ones_own_is_one_entry(monkeypatch):
    monkeypatch.setitem(SOURCES, "'doubles'", lambda text: Doubles() if text == "doubles" else None)
    task = open_task(task_source("doubles"), n_problems=3, seed=0)
    assert task.name == "doubles"
    assert all(task.verify(problem, f"It is {problem.answer}.").strict for problem in task.problems)
    with pytest.raises(TaskError, match=r"'path/to/file.jsonl' or 'doubles'"):
        task_source("triples")


def test_a_judge_of_ones_own_is_one_entry_or_a_value(tmp_path, monkeypatch):
    def verify(problem, completion):
        right = len(completion) == len(problem.answer)
        return Verdict(
            answer_correct=right, process_valid=None, reason="ok" if right else "another length", read_by="whole"
        )

    by_length = Judge(name="length", verify=verify, read_answer=str.strip, same_answer=operator.eq)
    path = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{n}?", "answer": "#### 42"} for n in range(8)]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(TaskError, match="no judge is called 'length', want one of chain, math"):
        task_source(f"{path}:length")
    monkeypatch.setitem(JUDGES, "length", by_length)
    source = task_source(f"{path}:length")
    assert source == FileTask(path=path, judged_by=by_length)
    assert source.typed == f"{path}:length"
    task = open_task(source, n_problems=1, seed=0)
    assert [task.verify(task.problems[0], text).strict for text in ("ab", "42", "abc")] == [True, True, False]
    assert task_source(str(path)).typed == str(path)
