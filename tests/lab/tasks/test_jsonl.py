"""JSONL files in the shapes of GSM8K and MATH."""

import json

import numpy as np
import pytest

from lab.records.errors import TaskError
from lab.tasks.question_rows import JsonlTask

GSM8K = {"question": "How many?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}
MATH = {"problem": "Half?", "level": "Level 1", "type": "Algebra", "solution": r"It is $\boxed{\frac{1}{2}}$."}


def written(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return JsonlTask(path=path)


def test_both_shapes_become_problems(tmp_path):
    bare = {"problem": "Third?", "subject": "Counting", "answer": "$3$", "unique_id": "t/7", "solution": r"\boxed{4}"}
    first, second, third = written(tmp_path / "mixed.jsonl", GSM8K, MATH, bare).rows()
    assert (first.answer, first.family) == ("42", "mixed")
    assert first.prompt.startswith("How many?\n")
    assert (second.answer, second.family) == (r"\frac{1}{2}", "Level 1")
    assert (third.answer, third.family, third.id) == ("3", "Counting", "mixed:t/7")
    assert first.source == str(tmp_path / "mixed.jsonl")


def test_blank_lines_a_byte_order_mark_and_line_separators_inside_strings_are_harmless(tmp_path):
    path = tmp_path / "a.jsonl"
    row = json.dumps({"question": "Line\u2028two?", "answer": "#### 1"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + row.encode() + b"\r\n\r\n\n")
    assert [problem.answer for problem in JsonlTask(path=path).rows()] == ["1"]


def test_ids_do_not_depend_on_the_order_of_rows(tmp_path):
    forth = written(tmp_path / "a.jsonl", GSM8K, MATH).rows()
    back = written(tmp_path / "a.jsonl", MATH, GSM8K).rows()
    assert forth == back[::-1]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"question": "x"', "row 2 is not JSON"),
        ("[" * 100_000, "row 2 is not JSON"),
        ("[1]", "row 2 is a JSON list"),
        ("{}", "row 2 has no key"),
        ('{"prompt": "x", "answer": "#### 1"}', "row 2 has 'prompt', 'answer'"),
        ('{"question": "x"}', "row 2 has no 'answer'"),
        ('{"problem": "x"}', "row 2 has no 'solution'"),
        ('{"question": "x", "answer": 42}', "'answer' = 42 of type int"),
        ('{"question": null, "answer": "#### 1"}', "'question' = None of type NoneType"),
        ('{"question": "x", "answer": "it is 42"}', "row 2 has no final answer"),
        ('{"question": "x", "answer": "####"}', "row 2 has no final answer"),
        ('{"problem": "x", "solution": "it is 42"}', "row 2 has no final answer"),
        ('{"problem": "x", "solution": "\\\\boxed{4"}', "row 2 has no final answer"),
        ('{"problem": "x", "answer": " "}', "row 2 has no final answer"),
        ('{"question": " ", "answer": "#### 1"}', "row 2 has an empty question"),
        (json.dumps(GSM8K), "row 2 has the id .* of row 1"),
    ],
)
def test_a_broken_row_is_named(tmp_path, line, fault):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(GSM8K) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(TaskError, match=fault) as caught:
        JsonlTask(path=path).rows()
    assert str(path) in str(caught.value)


def test_a_repeated_id_is_named_with_both_rows(tmp_path):
    rows = [{"problem": f"{n}?", "answer": "1", "id": "same"} for n in range(2)]
    with pytest.raises(TaskError, match="row 2 has the id 'a:same' of row 1"):
        written(tmp_path / "a.jsonl", *rows).rows()


def test_text_that_is_not_utf_8_an_empty_file_and_a_missing_one_are_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"question": "é", "answer": "#### 1"}'.encode("latin-1"))
    with pytest.raises(TaskError, match=r"a\.jsonl, row 1 is not UTF-8"):
        JsonlTask(path=path).rows()
    path.write_bytes(b"\n \n")
    with pytest.raises(TaskError, match=r"a\.jsonl is empty"):
        JsonlTask(path=path).rows()
    with pytest.raises(TaskError, match="No such file"):
        JsonlTask(path=tmp_path / "none.jsonl").rows()
    with pytest.raises(TaskError, match="cannot read"):
        JsonlTask(path=tmp_path).rows()


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
