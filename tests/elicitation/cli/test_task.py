"""`lab task show`: how a file of problems is read."""

import json

import polars as pl
import pytest


@pytest.fixture
def asked(tmp_path):
    path = tmp_path / "riddles.parquet"
    pl.DataFrame({"riddle": ["What is [red]2[/red]?", "And 3?", ""], "key": ["2", "3", "4"]}).write_parquet(path)
    return str(path)


def test_a_file_is_shown_as_its_problems_are_asked_and_judged(lab, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"problem": "1 + 1?", "answer": 2.0, "id": 7}))
    code, shown, complaint = lab("task", "show", str(path))
    assert (code, complaint) == (0, "")
    read = "1 problems: question from `problem`, answer from `answer`; judged as math"
    assert shown.split("\n") == [read, "", "a:7", "1 + 1?", "answer: 2", ""]


def test_columns_can_be_named_and_bad_rows_left_out(lab, asked):
    code, _, complaint = lab("task", "show", asked)
    assert code == 2
    assert "has 'riddle', 'key', and no question in any of problem, question" in complaint
    named = ("--question-column", "riddle", "--answer-column", "key")
    code, _, complaint = lab("task", "show", asked, *named)
    assert code == 2
    assert "row 3 has 'riddle', 'key'" in complaint
    code, shown, _ = lab("task", "show", asked, *named, "--skip-bad-rows", "--n-shown", "1")
    assert code == 0
    assert "1 bad rows left out" in shown
    assert "What is [red]2[/red]?" in shown
    assert "And 3?" not in shown
