"""JSONL files in the shapes of GSM8K and MATH."""

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lab.records.errors import TaskError
from lab.tasks.benchmarks import BENCHMARKS
from lab.tasks.question_rows import QuestionRows, Reading
from lab.tasks.row_task import FileTask, judge_of
from lab.tasks.source import task_source

GSM8K = {"question": "How many?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}
MATH = {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return FileTask(path=path)


def test_both_shapes_become_problems(tmp_path):
    bare = {"problem": "Third?", "subject": "Counting", "answer": "$3$", "unique_id": "t/7", "solution": r"\boxed{4}"}
    first, second, third = written(tmp_path / "mixed.jsonl", GSM8K, MATH, bare).found().problems
    assert (first.answer, first.family) == ("42", "mixed")
    assert first.prompt.startswith("How many?\n")
    assert (second.answer, second.family) == (r"\frac{1}{2}", "Level 1")
    assert (third.answer, third.family, third.id) == ("3", "Counting", "mixed:t/7")
    assert first.source == str(tmp_path / "mixed.jsonl")


def test_blank_lines_a_byte_order_mark_and_line_separators_inside_strings_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    row = json.dumps({"question": "Line\u2028two?", "answer": "#### 1"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n\r\n\n")
    assert [problem.answer for problem in FileTask(path=path).found().problems] == ["1"]


def test_ids_do_not_depend_on_the_order_of_rows(tmp_path):
    forth = written(tmp_path / "a.jsonl", GSM8K, MATH).found().problems
    back = written(tmp_path / "a.jsonl", MATH, GSM8K).found().problems
    assert forth == back[::-1]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"question": "x"', "row 2 is not JSON"),
        ("[" * 100_000, "row 2 is not JSON"),
        ("[1]", "row 2 is a JSON list"),
        ("{}", "row 2 has no column, and no question in any of"),
        ('{"riddle": "x", "answer": "#### 1"}', "row 2 has 'riddle', 'answer', and no question in any of .*: name its"),
        ('{"question": "x"}', "row 2 has 'question', and no answer in any of"),
        ('{"question": "x", "answer": true}', "row 2 has no final answer in answer"),
        ('{"question": null, "answer": "#### 1"}', "no question in any of"),
        ('{"prompt": [{"role": "system", "content": "x"}], "answer": "1"}', "row 2 has no text in 'prompt'"),
        ('{"question": "x", "answer": [null]}', "row 2 has no final answer"),
        ('{"question": "x", "answer": "####"}', "row 2 has no final answer"),
        ('{"problem": "x", "solution": "it is 42"}', "row 2 has no final answer"),
        ('{"problem": "x", "solution": "\\\\boxed{4"}', "row 2 has no final answer"),
        ('{"problem": "x", "answer": " "}', "row 2 has no final answer"),
        ('{"question": " ", "answer": "#### 1"}', "row 2 has no text in 'question'"),
        (r'{"question": "so \ud83d?", "answer": "#### 1"}', r"row 2 holds half a character, the last of 'so \\ud83d'"),
        (r'{"question": "x", "answer": "1", "id": "\udc00"}', "row 2 holds half a character"),
        ('{"question": "a", "answer": "1", "answer": "2"}', "row 2 says a field twice"),
        ('{"question": ' + "[" * 300 + "]" * 300 + "}", "row 2 is nested deeper than 64 levels"),
        ('{"question": "x", "answer": ' + "9" * 5000 + "}", "row 2 is not JSON .*Exceeds the limit"),
        (
            '{"question": "x", "answer": Infinity, "choices": ["a", "b"]}',
            "row 2 has inf in 'answer', which is no letter",
        ),
        ('{"question": "x\0", "answer": "1"}', "row 2 is not JSON .*control character"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, fault):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(GSM8K) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(TaskError, match=fault) as caught:
        FileTask(path=path).found()
    assert str(path) in str(caught.value)


def test_a_number_of_400_digits_is_an_answer(tmp_path):
    (problem,) = written(tmp_path / "a.jsonl", {"question": "x", "answer": 10**400}).found().problems
    assert problem.answer == str(10**400)


def test_a_directory_and_a_pipe_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    for path, what in ((tmp_path, "a directory"), (tmp_path / "pipe.jsonl", "a pipe or a device")):
        with pytest.raises(TaskError, match=f"cannot read {path}: it is {what}; want a file of problems"):
            FileTask(path=path).found()


def test_repeated_rows_are_one_problem_and_equal_ids_of_two_are_told_apart(tmp_path):
    rows = [{"problem": f"{n % 2}?", "answer": "1", "id": "same"} for n in range(6)]
    found = written(tmp_path / "a.jsonl", *rows, {"problem": "0?", "answer": "2", "id": "same"}).found()
    assert [problem.prompt[:2] for problem in found.problems] == ["0?", "1?", "0?"]
    assert found.problems[0].id == "a:same"
    assert len({problem.id for problem in found.problems}) == 3
    assert found.described == "3 problems: question from `problem`, answer from `answer`; 4 repeated rows merged"


CHAT = {"prompt": [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "Half?"}], "final_answer": 0.5}
VERL = {
    "prompt": [{"role": "user", "content": "Two?"}],
    "reward_model": {"ground_truth": ["2"]},
    "extra_info": {"i": 1},
}


def test_one_reader_takes_a_list_columns_parquet_and_arrow_by_what_the_file_holds(tmp_path):
    rows = [{"problem": f"{n}?", "answer": float(n), "level": n} for n in range(3)]
    frame, path = pl.DataFrame(rows), tmp_path / "file"
    columns = {name: {str(n): row[name] for n, row in enumerate(rows)} for name in rows[0]}
    contents = [
        json.dumps(rows).encode(),
        json.dumps(columns).encode(),
        json.dumps(frame.to_dict(as_series=False)).encode(),
    ]
    for write in (frame.write_parquet, frame.write_ipc, frame.write_ipc_stream):
        write(path)
        contents.append(path.read_bytes())
    for content in contents:
        path.write_bytes(content)
        found = FileTask(path=path).found()
        assert [(problem.answer, problem.family) for problem in found.problems] == [
            (str(n), f"Level {n}") for n in range(3)
        ]


@pytest.mark.parametrize("content", [b"PAR1 and no more", b"ARROW1\0\0", b"\xff\xff\xff\xff\x01"])
def test_a_damaged_table_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(TaskError, match=r"a\.parquet is a damaged table"):
        FileTask(path=tmp_path / "a.parquet").found()


def test_columns_of_different_rows_are_refused(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"problem": ["1?", "2?"], "answer": ["1"]}))
    with pytest.raises(TaskError, match=r"columns of different rows .'problem' 2, 'answer' 1"):
        FileTask(path=tmp_path / "a.json").found()


def test_chats_nested_answers_and_lists_are_read(tmp_path):
    both = {"question": "Which?", "answer": [3, "5", {"and": 7}]}
    found = written(tmp_path / "a.jsonl", CHAT, VERL, both).found().problems
    assert [(problem.prompt.split("\n")[0], problem.answer) for problem in found] == [
        ("Half?", "0.5"),
        ("Two?", "2"),
        ("Which?", "3, 5, 7"),
    ]


CHOICES = ["Rome", "Paris", "Oslo"]


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Which?", "options": CHOICES, "answer": "B"},
        {"question": "Which?", "choices": CHOICES, "answer": 1},
        {"question": "Which?", "choices": {"text": CHOICES, "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"question": "Which?", "options": CHOICES, "answer": "Paris"},
    ],
)
def test_choices_are_asked_and_the_gold_is_a_letter(row):
    (problem,) = QuestionRows(source="s", stem="s", reading=Reading(suffix="")).problems([(1, row)]).problems
    assert (problem.prompt, problem.answer) == ("Which?\n\nA. Rome\nB. Paris\nC. Oslo", "B")


def test_a_right_answer_and_wrong_ones_are_mixed():
    row = {"Question": "Which?", "Correct Answer": "Paris", "Incorrect Answer 1": "Rome", "Incorrect Answer 2": "Oslo"}
    (problem,) = QuestionRows(source="s", stem="s").problems([(1, row)]).problems
    assert f"\n{problem.answer}. Paris" in problem.prompt
    assert "Rome" in problem.prompt


def test_columns_are_found_whatever_their_case_with_context_and_parts_of_a_turn(tmp_path):
    parts = [{"type": "text", "text": "Half?"}]
    rows = [
        {"ID": "1", "Body": "Tom has 3.", "Question": "How many?", "Answer": 3.0},
        {"messages": [{"role": "user", "content": parts}], "expected_answer": "1/2"},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": rows}))
    found = FileTask(path=tmp_path / "a.json", reading=Reading(suffix="")).found().problems
    assert [(one.prompt, one.answer) for one in found] == [("Tom has 3.\nHow many?", "3"), ("Half?", "1/2")]


def test_bad_rows_are_left_out_and_counted_where_that_is_asked_for():
    rows = [(1, {"question": "x"}), (2, GSM8K), (3, MATH)]
    found = QuestionRows(source="s", stem="s", reading=Reading(skip_bad_rows=True)).problems(rows)
    assert [problem.answer for problem in found.problems] == ["42", r"\frac{1}{2}"]
    assert found.described.endswith("; 1 bad rows left out")
    with pytest.raises(TaskError, match="want rows that can be read, the first: s, row 1 has 'question'"):
        QuestionRows(source="s", stem="s", reading=Reading(skip_bad_rows=True)).problems(rows[:1])


def test_a_named_column_goes_before_the_rule():
    row = {"riddle": "What?", "question": "no", "key": "4", "answer": "5"}
    found = QuestionRows(
        source="s", stem="s", reading=Reading(question_column=("riddle",), answer_column=("key",))
    ).problems([(1, row)])
    assert (found.problems[0].prompt[:5], found.problems[0].answer) == ("What?", "4")
    assert read({"prompt": "What?", "solution": "34"}, answer_column=("solution",)) == [("34",)]


def read(*rows, **how):
    found = QuestionRows(source="s", stem="s", reading=Reading(suffix="", **how)).problems(enumerate(rows, start=1))
    return [(one.answer, *one.aliases) for one in found.problems]


@pytest.mark.parametrize(
    ("row", "golds"),
    [
        ({"answer": ["0.01\n", "0.02\n"]}, ("0.01", "0.02")),  # Minerva: two ways to round.
        ({"final_answer": ["3", "5"], "is_multiple_answer": True}, ("3, 5",)),
        ({"final_answer": ["3, 5"], "is_multiple_answer": False}, ("3, 5",)),
        ({"answer": [3568, 5880]}, ("3568, 5880",)),
        ({"answer": {"value": "Paris", "aliases": ["Paris", "City of Light"]}}, ("Paris", "City of Light")),
        ({"answer": "Paris", "aliases": ["Lutetia"]}, ("Paris", "Lutetia")),
        ({"answers": {"text": ["Paris", "in Paris"], "answer_start": [1, 2]}}, ("Paris", "in Paris")),
        ({"reward_model": {"ground_truth": {"target": ["Paris", "Lutetia"]}}}, ("Paris", "Lutetia")),
        ({"reward_model": '{"style": "rule", "ground_truth": "4"}'}, ("4",)),
    ],
)
def test_several_golds_are_parts_of_one_answer_or_ways_to_write_it(row, golds):
    assert read({"question": "Which?", **row}) == [golds]


LIONS = {"question": "Which roars?", "subject": "zoology"}


@pytest.mark.parametrize(
    "row",
    [
        {"options": ["cat", "lion"], "answer": "B", "answer_index": 1, "category": "x"},  # MMLU-Pro
        {"choices": ["cat", "lion"], "answer": 1},  # MMLU
        {"choices": {"text": ["cat", "lion"], "label": ["1", "2"]}, "answerKey": "2"},  # ARC
        {"options": {"A": "cat", "B": "lion"}, "answer": "(b)"},
        {"choices": ["cat", "lion"], "answer": "1"},
        {
            "question": {
                "stem": "Which roars?",
                "choices": [{"text": "cat", "label": "1"}, {"text": "lion", "label": "2"}],
            },
            "answerKey": "2",
        },
        {"A": "cat", "B": "lion", "answer": "B"},
        {"choices": ["cat", "lion"], "answer": "lion"},
        {"choices": ["1", "0"], "answer": 1},  # The number of the choice goes before its text.
        {"choices": ["cat", "lion" * 200], "correct_answer": "lion" * 200},
    ],
)
def test_choices_of_every_shape_are_asked_with_letters(row):
    (problem,) = QuestionRows(source="s", stem="s").problems([(1, LIONS | row)]).problems
    assert (problem.answer, len(problem.choices)) == ("B", 2)
    A, B = problem.choices
    assert problem.prompt.startswith(f"Which roars?\n\nA. {A}\nB. {B}\n\nThink step by step, and put the letter")


def test_numbers_of_choices_are_told_from_their_texts_by_all_rows():
    digits = {"question": "Which?", "choices": ["2", "1", "0"]}
    assert read({**digits, "answer": "1"}, {**digits, "answer": "0"}) == [("B",), ("C",)]
    assert read({**digits, "answer": "2"}, {**LIONS, "choices": ["cat", "lion"], "answer": "1"}) == [("C",), ("B",)]
    with pytest.raises(TaskError, match="row 1 has '1' in 'answer', which is no letter"):
        read({**LIONS, "choices": ["cat", "lion"], "answer": "1"}, {**digits, "choices": ["7", "8"], "answer": "8"})


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (({**LIONS, "choices": ["cat", "lion"], "answer": "B"}, GSM8K), r"\('How many.'\) has no choices, and others"),
        (({"text": "f", "test_list": ["assert f()"]}, GSM8K), r"\('How many.'\) has no tests, .* as in FILE:math"),
    ],
)
def test_rows_of_two_kinds_are_refused_unless_a_judge_is_named(tmp_path, rows, fault):
    task = written(tmp_path / "a.jsonl", *rows)
    with pytest.raises(TaskError, match=fault):
        task.judge(task.found().problems)
    assert task_source(f"{task.path}:math").judge(task.found().problems).name == "math"


@pytest.mark.parametrize(
    ("name", "content", "answers"),
    [
        ("a.jsonl", b'{"question": "1?", "answer": "1"}\n{"question\n[2]\n{"question": "\xff"}\n', ["1"]),
        ("a.csv", b"question,answer\n1?,1\n2?,2,2\n\xff?,3\n4?,4\n", ["1", "4"]),
        ("a.jsonl", b'{"prompt": [{"role": "user", "content": "1?"}], "answer": ["1"]}\n', ["1"]),
        ("a.json", b'{"rows": [{"row_idx": 0, "row": {"question": "1?", "answer": "1"}}]}', ["1"]),
    ],
)
def test_lines_that_cannot_be_read_are_bad_rows_and_one_line_is_a_row(tmp_path, name, content, answers):
    (tmp_path / name).write_bytes(content)
    found = FileTask(path=tmp_path / name, reading=Reading(skip_bad_rows=True)).found()
    assert [problem.answer for problem in found.problems] == answers


def test_an_answer_that_is_no_choice_is_a_bad_row():
    with pytest.raises(TaskError, match=r"row 1 has 'dog' in 'answer', which is no letter, .* of its choices: name"):
        read({**LIONS, "choices": ["cat", "lion"], "answer": "dog"})


@pytest.mark.parametrize("between", [",", "\t"])
def test_values_between_commas_or_tabs_are_rows(tmp_path, between):
    path = tmp_path / "any"
    path.write_text(f'question{between}answer{between}level\n"One{between} two\nor ""three""?"{between}3{between}1\n\n')
    (problem,) = FileTask(path=path).found().problems
    assert problem.prompt.startswith(f'One{between} two\nor "three"?\n')
    assert problem.answer == "3"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("question,answer\n1?,2,3\n", "row 1 has 3 values where the first line names 2 columns: put quotes"),
        ("Once upon a time\n", "begins with 'Once upon a time.n': want JSON, parquet, Arrow, or CSV"),
        ("a,a\n", "below a line of column names"),
    ],
)
def test_a_file_of_no_known_form_is_named(tmp_path, text, fault):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(TaskError, match=fault):
        FileTask(path=tmp_path / "a.csv").found()


SHARED = Path(__file__).parents[4] / "shared" / "data" / "tasks"


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no public benchmark files beside the checkout")
def test_every_public_benchmark_file_is_read_with_the_right_count():
    listed = re.findall(r"^\| (\S+) \| ([0-9]+)", (SHARED / "SOURCES.md").read_text(), re.MULTILINE)
    assert len(listed) > 40
    for name, n_rows in listed:
        found = FileTask(path=SHARED / name).found()
        n_copies = 8 if "8" in name.replace("gsm8k", "").partition(".")[0] or "x8" in name else 1
        assert len(found.problems) == int(n_rows) // n_copies, found.described


COPIES = {
    "math500": ("math500.limo.jsonl", 500), "gsm8k": ("gsm8k.openai.jsonl", 1319), "aime24": ("aime24.limo.jsonl", 30),
    "amc23": ("amc23.simplerl.jsonl", 40),
    "minerva": ("minerva.limo.jsonl", 272), "olympiadbench": ("olympiadbench.simplerl.jsonl", 675),
}  # fmt: skip
"""Benchmark -> a public copy with the columns of the data set on the hub, and its problems."""


@pytest.mark.real_data
@pytest.mark.skipif(not SHARED.is_dir(), reason="no public benchmark files beside the checkout")
def test_a_named_benchmark_reads_the_copies_of_it():
    for name, (file, n_problems) in COPIES.items():
        found = FileTask(path=SHARED / file, reading=BENCHMARKS[name].reading).found()
        by_rule = FileTask(path=SHARED / file).found()
        assert len(found.problems) == n_problems
        assert [one.answer for one in found.problems] == [one.answer for one in by_rule.problems]


SHAPES = {
    "gpqa": {"Question": "Which?", "Correct Answer": "x\n", "Record ID": "rec1"}
    | {f"Incorrect Answer {n}": str(n) for n in (1, 2, 3)},
    "mmlu-pro": {"question_id": 70, "question": "Which?", "options": ["1", "x"], "answer": "B", "answer_index": 1},
    "humaneval": {"task_id": "HumanEval/0", "prompt": "def f():\n", "test": "def check(f): ...", "entry_point": "f"},
    "mbpp": {"task_id": 11, "text": "Write f.", "code": "", "test_list": ["assert f()"], "test_setup_code": ""},
    "aime25": {"id": "0", "problem": "Which?", "answer": "70"},
}
"""Benchmark of which there is no public copy here -> the columns of the data set on the hub."""


def test_a_named_benchmark_reads_rows_of_its_shape():
    kinds = {}
    for name, row in SHAPES.items():
        (problem,) = QuestionRows(source="s", stem=name, reading=BENCHMARKS[name].reading).problems([(1, row)]).problems
        kinds[name] = judge_of([problem]).name
        if problem.choices:
            assert problem.choices[ord(problem.answer) - ord("A")] == "x"
    assert kinds == {"gpqa": "choice", "mmlu-pro": "choice", "humaneval": "code", "mbpp": "code", "aime25": "math"}


def test_a_benchmark_is_typed_by_its_name_and_its_flags_go_before_its_own():
    for name, task in BENCHMARKS.items():
        assert task_source(name) == task
        assert task.typed == name
    reading = Reading(question_column=("text",), suffix="!")
    assert task_source("math500", reading).reading == replace(reading, answer_column=("answer",))


def test_text_that_is_not_utf_8_an_empty_file_and_a_missing_one_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"question": "é", "answer": "#### 1"}'.encode("latin-1"))
    with pytest.raises(TaskError, match=r"a\.jsonl, row 1 is not UTF-8"):
        FileTask(path=path).found()
    path.write_bytes(b"\n \n")
    with pytest.raises(TaskError, match=r"a\.jsonl is empty"):
        FileTask(path=path).found()
    with pytest.raises(TaskError, match="No such file"):
        FileTask(path=tmp_path / "none.jsonl").found()
    with pytest.raises(TaskError, match="cannot read"):
        FileTask(path=tmp_path).found()


def test_the_sides_share_no_question_and_adding_rows_moves_none(tmp_path):
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(60)]
    task = written(tmp_path / "a.jsonl", *rows)

    def side(held_out, n_problems):
        return {problem.prompt for problem in task.problems(n_problems, np.random.default_rng(0), held_out=held_out)}

    with pytest.raises(TaskError, match="asked for 1000 held-out problems, it has") as caught:
        side(True, 1000)
    n_held_out = int(str(caught.value).split("it has ")[1].split(":")[0])
    held_out, training = side(True, n_held_out), side(False, 60 - n_held_out)
    assert held_out.isdisjoint(training)
    assert 15 < n_held_out < 45
    written(tmp_path / "a.jsonl", *rows, {"problem": "new?", "answer": "1"})
    more = side(True, n_held_out)
    assert len(more - held_out) <= 1
