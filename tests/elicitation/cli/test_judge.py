"""`lab judge`: stored completions are judged again, and read by another reader."""

import json
import sys

import polars as pl
import pytest

from elicitation.cli.main import main
from lab.records.provenance import provenance
from lab.records.tables import read_table, write_table
from lab.sampling.stored import DISAGREEMENTS
from lab.sampling.trace import TRACES
from lab.tasks.problem import PROBLEMS, Problem, problem_table

ROWS = [
    {"response": r"\boxed{5}", "answer": "5", "finish_reason": "stop"},
    {"response": [r"It is \boxed{7}.", "The answer is 5.\n\nQuestion: What is 3+4?\nThe answer is 7."], "answer": 5},
    {"response": r"<think>so \boxed{5}", "answer": "5", "finish_reason": "stop"},
    {"response": "first 7, then", "answer": "5", "finish_reason": "length"},
    {"response": "", "answer": "5"},
]


@pytest.fixture
def judged(tmp_path, monkeypatch, capsys):
    """What `lab judge` says of rows, or of a table that is there already."""

    def judge(rows, *options, name="rows.jsonl"):
        path = tmp_path / name
        if rows is not None:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        monkeypatch.setattr(sys, "argv", ["lab", "judge", str(path), *map(str, options)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = stopped.code
        said = capsys.readouterr()
        return code, " ".join((said.out + said.err).split())

    return judge


def test_rows_are_counted_by_outcome_and_by_rule_and_disagreements_are_kept(judged, tmp_path):
    out = tmp_path / "differing.parquet"
    code, said = judged(ROWS, "--out", out)
    assert code == 0, said
    assert "6 completions: completion from `response`, gold answer from `answer`" in said
    for line in (
        "right 2 33.3%",
        "wrong 1 16.7% read by box 1",
        "no answer 1 16.7%",
        "cut 2 33.3%",
        "read by stated 1",
    ):
        assert line in said
    assert "accuracy: strict 0.333, answer 0.333" in said
    differing = read_table(out, DISAGREEMENTS)
    assert differing.select("problem_id", "sample_index", "theirs_right").rows() == [
        ("row 2", 1, False),
        ("row 3", 0, True),
    ]
    assert "math-verify alone disagrees on 2" in said
    assert "exists" in judged(ROWS, "--out", out)[1]


def test_a_thought_that_the_prompts_opened_may_be_told(judged):
    code, said = judged([{"completion": r"so \boxed{5}", "gold": "5"}], "--opens-thought")
    assert code == 0
    assert "cut 1 100.0%" in said


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({"response": r"\boxed{4}", "reward_model": {"ground_truth": "4"}}, "right"),
        ({"response": r"\boxed{6630}", "answer": ["6630.65", "6630"]}, "right"),
        ({"response": [{"role": "assistant", "content": r"\boxed{4}"}], "answer": "4"}, "right"),
        ({"response": [{"text": r"\boxed{4}"}], "answer": "4"}, "right"),
        ({"response": None, "answer": "4"}, "no answer"),
        ({"response": [None], "answer": "4"}, "no answer"),
    ],
)
def test_completions_and_golds_are_read_in_the_shapes_that_people_keep_them_in(judged, row, outcome):
    assert f"{outcome} 1 100.0%" in judged([row])[1]


def test_columns_that_are_not_found_are_named(judged):
    assert judged([{"said": "5", "answer": "5"}])[1].endswith("name it with --completion-column")
    assert judged([{"said": "5", "answer": "5"}], "--completion-column", "said")[0] == 0
    assert "no gold in" in judged([{"output": "5"}])[1]
    assert "has no gold answer in 'answer'" in judged([{"output": "5", "answer": " "}])[1]
    assert judged([{"output": "5", "reward_model": {"gold": 5}}], "--gold-column", "reward_model.gold")[0] == 0
    assert "is empty" in judged([])[1]


def test_a_table_of_traces_is_judged_with_the_problems_beside_it(judged, tmp_path):
    made_by = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)
    problem = Problem(id="p", prompt="<2+3?", answer="5", family="", source="chain")
    trace = {"arm": "base", "problem_id": "p", "sample_index": 0, "text": "T2+3=5;A5", "stop": "eos"}
    trace |= {name: [] for name in ("tokens", "logprobs", "routes", "categories", "content_bits")}
    write_table(tmp_path / "t.parquet", TRACES.frame([trace]), TRACES, made_by)
    assert "not among the 0 problems beside it" in judged(None, name="t.parquet")[1]
    write_table(tmp_path / "t.problems.parquet", problem_table([problem]), PROBLEMS, made_by)
    assert "name it with --task" in judged(None, name="t.parquet")[1]
    code, said = judged(None, "--task", "chain", name="t.parquet")
    assert code == 0, said
    assert "right 1 100.0% read by answer 1" in said
    assert "math-verify does not read" in said


def test_a_table_of_other_columns_is_no_table_of_traces(judged, tmp_path):
    pl.DataFrame({"completion": ["It is 5."], "answer": ["5"]}).write_parquet(tmp_path / "own.parquet")
    assert "right 1 100.0% read by number 1" in judged(None, name="own.parquet")[1]


def test_half_a_character_of_a_completion_is_shown_as_none_and_a_damaged_table_is_named(judged, tmp_path):
    out = tmp_path / "differing.parquet"
    row = {"response": "\ud83d The answer is 5.\n\nQuestion: What is 3+4?\nThe answer is 7.", "answer": 5}
    code, said = judged([row], "--out", out)
    assert code == 0, said
    assert read_table(out, DISAGREEMENTS)["text"][0].startswith("\ufffd The answer")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more PAR1")
    code, said = judged(None, name="a.parquet")
    assert code == 2
    assert f"cannot read the table at {tmp_path / 'a.parquet'}: " in said


def test_a_word_that_is_not_utf_8_is_refused(judged):
    code, said = judged(None, name="\udcff.jsonl")
    assert code == 2
    assert r"\udcff.jsonl' is not UTF-8" in said
