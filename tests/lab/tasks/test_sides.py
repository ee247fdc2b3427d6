"""Which problems are held out and which are fitted on, of one task or of two."""

import json
from pathlib import Path

import pytest

from lab.records.errors import TaskError
from lab.tasks.question_rows import Reading
from lab.tasks.source import open_sides, task_source


def written(path: Path, *questions: str, **more: object) -> str:
    path.parent.mkdir(exist_ok=True)
    rows = [{"problem": question, "answer": str(n), **more} for n, question in enumerate(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def opened(task, fit_task=None, n=None, n_fit=None):
    return open_sides(task_source(task), fit_task and task_source(fit_task), n, n_fit, seed=0)


@pytest.fixture
def thirty(tmp_path):
    return written(tmp_path / "thirty.jsonl", *(f"Question {n}?" for n in range(30)))


def test_one_task_is_split_by_question_and_says_so(thirty):
    task, fit_task, told = opened(thirty)
    assert len(task.problems) + len(fit_task.problems) == 30
    assert {one.prompt for one in task.problems}.isdisjoint(one.prompt for one in fit_task.problems)
    n, n_fit = len(task.problems), len(fit_task.problems)
    read = f"{thirty}: 30 problems: question from `problem`, answer from `answer`"
    assert told == (read, f"no --fit-task: {n} of 30 problems are held out, {n_fit} fit vectors")


def test_beside_a_task_to_fit_on_every_row_is_held_out_and_what_both_ask_is_not_fitted_on(thirty, tmp_path):
    other = written(tmp_path / "fit.jsonl", "question  3?", "Another?", "A third?")
    task, fit_task, told = opened(thirty, other)
    assert len(task.problems) == 30
    assert sorted(one.prompt[:8] for one in fit_task.problems) == ["A third?", "Another?"]
    assert told[1].startswith(f"{other}: 2 problems: ")
    assert told[1].endswith("; 1 left out that the other task asks too")
    assert told[2] == f"30 of 30 problems are held out, 2 of {other} fit vectors"
    with pytest.raises(TaskError, match="the other task asks all its 30 questions: want others"):
        opened(thirty, thirty)


@pytest.mark.parametrize("change", ["{} ?", "{}\nPlease put your answer in \\boxed{{}}.", " {}  Think. Answer!"])
def test_a_question_in_another_dress_is_the_same_and_another_number_or_sign_is_not(tmp_path, change):
    asked = [f"What is {n} {sign} 2.5, as \\(x\\)?" for n in range(9) for sign in "+-"]
    task = written(tmp_path / "a.jsonl", *asked[:9])
    other = written(tmp_path / "b.jsonl", *(change.format(one.replace("\\(x\\)", "$x$")) for one in asked))
    assert opened(task, other).told[1].endswith("; 9 left out that the other task asks too")


def test_a_question_with_other_choices_is_the_same(tmp_path):
    one, other = (written(tmp_path / name, "Which?", choices=["0", name]) for name in ("a.jsonl", "b.jsonl"))
    with pytest.raises(TaskError, match="the other task asks all its 1 questions"):
        opened(one, other)


def test_a_number_that_was_asked_for_is_not_made_smaller(thirty, tmp_path):
    other = written(tmp_path / "fit.jsonl", "Another?")
    assert len(opened(thirty, other, 7, 1).task.problems) == 7
    with pytest.raises(TaskError, match="asked for 31 problems, it has 30: want fewer, or more rows"):
        opened(thirty, other, 31)
    with pytest.raises(TaskError, match=r"asked for 25 held-out problems, it has \d+: want fewer, .* --fit-task"):
        opened(thirty, None, 25)


def test_rows_of_two_files_that_are_called_alike_have_different_ids(tmp_path):
    one = written(tmp_path / "a" / "test.jsonl", "1?", id=1)
    other = written(tmp_path / "b" / "test.jsonl", "2?", id=1)
    task, fit_task, _ = opened(one, other)
    assert (task.problems[0].id, fit_task.problems[0].id) == ("test:1", "fit:test:1")


def test_generated_problems_may_be_fitted_on_for_rows_and_need_no_words(thirty):
    task, fit_task, told = opened(thirty, "chain:+:1-2", None, 5)
    assert (len(task.problems), len(fit_task.problems), fit_task.name) == (30, 5, "chain:+:1-2")
    assert told[-1] == "30 of 30 problems are held out, 5 of chain:+:1-2 fit vectors"
    assert opened("chain", None, 5, 5).told == ()


def test_a_task_that_is_typed_is_read_as_the_flags_say(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('riddle,key\n"What, then?",4\n,5\n')
    reading = Reading(question_column=("problem", "riddle"), answer_column=("key",), skip_bad_rows=True, suffix=" =")
    task, *_ = open_sides(task_source(str(path), reading), task_source("chain"), None, 1, seed=0)
    assert [(one.prompt, one.answer) for one in task.problems] == [("What, then? =", "4")]
