"""Tasks from data sets of the hub: read from directories that are laid out as they are there, since no test has a
network."""

import json

import numpy as np
import polars as pl
import pytest

from lab.records.errors import TaskError
from lab.tasks.row_task import FileTask, HubTask
from lab.tasks.source import open_task, task_source

GSM8K = [
    {
        "question": f"Ann has {n} bags of {n + 1} nuts. How many nuts has she?",
        "answer": f"She has {n} * {n + 1} = <<{n}*{n + 1}={n * (n + 1)}>>{n * (n + 1)} nuts.\n#### {n * (n + 1):,}",
    }
    for n in range(30, 50)
]
MATH_500 = [
    {
        "problem": "Convert the point $(0,1)$ in rectangular coordinates to polar coordinates.",
        "solution": r"We have $r = 1$ and \[\theta = \boxed{\left( 1, \frac{\pi}{2} \right)}.\]",
        "answer": r"\left( 1, \frac{\pi}{2} \right)",
        "subject": "Precalculus",
        "level": 2,
        "unique_id": "test/precalculus/7.json",
    },
    {
        "problem": "What is one half of one half?",
        "solution": r"It is $\boxed{\frac{1}{4}}.$",
        "answer": r"\frac{1}{4}",
        "subject": "Prealgebra",
        "level": 1,
        "unique_id": "test/prealgebra/9.json",
    },
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Tables that datasets makes of what it reads go with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def gsm8k(tmp_path):
    """Parquet files of two configurations, as in openai/gsm8k."""
    directory = tmp_path / "gsm8k"
    configs = []
    for config, rows in (("main", GSM8K), ("socratic", GSM8K[:3])):
        (directory / config).mkdir(parents=True)
        for split, part in (("train", rows[:2]), ("test", rows)):
            pl.DataFrame(part).write_parquet(directory / config / f"{split}-00000-of-00001.parquet")
        files = "".join(f"  - split: {split}\n    path: {config}/{split}-*\n" for split in ("train", "test"))
        configs.append(f"- config_name: {config}\n  data_files:\n{files}")
    (directory / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    return str(directory)


@pytest.fixture
def math_500(tmp_path):
    """One file of lines, as in HuggingFaceH4/MATH-500."""
    directory = tmp_path / "MATH-500"
    directory.mkdir()
    (directory / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in MATH_500))
    return str(directory)


def test_rows_of_a_data_set_are_those_of_the_same_file_of_lines(gsm8k, tmp_path):
    path = tmp_path / "gsm8k.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in GSM8K))
    from_hub, from_file = HubTask(name=gsm8k, config="main").found().problems, FileTask(path=path).found().problems
    assert [(row.id, row.prompt, row.answer) for row in from_hub] == [
        (row.id, row.prompt, row.answer) for row in from_file
    ]
    assert from_hub[0].answer == "930"
    assert from_hub[-1].answer == "2,450"
    assert from_hub[0].source == f"hub:{gsm8k}:main"


def test_rows_of_math_500_keep_their_names_and_levels(math_500, tmp_path):
    path = tmp_path / "MATH-500.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in MATH_500))
    for rows in (HubTask(name=math_500).found().problems, FileTask(path=path).found().problems):
        assert [row.id for row in rows] == ["MATH-500:test/precalculus/7.json", "MATH-500:test/prealgebra/9.json"]
        assert [row.family for row in rows] == ["Level 2", "Level 1"]
        assert rows[0].answer == r"\left( 1, \frac{\pi}{2} \right)"


def test_a_task_of_a_data_set_judges_completions_by_their_answers(gsm8k):
    task = open_task(HubTask(name=gsm8k, config="main"), n_problems=3, seed=0)
    problem = task.problems[0]
    assert task.verify(problem, f"So it is \\boxed{{{problem.answer}}}.").answer_correct
    assert not task.verify(problem, r"So it is \boxed{7}.").answer_correct


def test_a_split_and_a_configuration_can_be_named(gsm8k):
    assert len(HubTask(name=gsm8k, config="main", split="train").found().problems) == 2
    assert len(HubTask(name=gsm8k, config="socratic").found().problems) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Config name is missing"),
        ({"config": "maths"}, "'maths' not found. Available: ['main', 'socratic']"),
        ({"config": "main", "split": "exam"}, "Unknown split \"exam\". Should be one of ['train', 'test']"),
    ],
)
def test_what_a_data_set_lacks_is_named_with_what_it_has(gsm8k, options, message):
    with pytest.raises(TaskError) as caught:
        HubTask(name=gsm8k, **options).found()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_of_other_formats_are_refused_before_they_are_read(tmp_path):
    directory = tmp_path / "sheets"
    directory.mkdir()
    (directory / "test.txt").write_text("1 + 1?\n")
    with pytest.raises(TaskError, match="is made of text: want parquet or json or csv files"):
        HubTask(name=str(directory)).found()


def test_without_a_connection_one_line_says_what_was_wanted_and_what_works(monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    with pytest.raises(TaskError) as caught:
        open_task(task_source("hub:openai/gsm8k:main:test"), n_problems=1, seed=0)
    message = str(caught.value)
    assert message.startswith("hub:openai/gsm8k:main wants the Hugging Face hub, and there is no connection to it")
    assert "the path of a .jsonl file, which works offline" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("typed", "source"),
    [
        ("hub:openai/gsm8k", HubTask(name="openai/gsm8k")),
        ("hub:openai/gsm8k:main", HubTask(name="openai/gsm8k", config="main")),
        ("hub:openai/gsm8k:main:train", HubTask(name="openai/gsm8k", config="main", split="train")),
        ("hub:a/b::train", HubTask(name="a/b", split="train")),
        ("hub:a/b@v1.0:main:train", HubTask(name="a/b", revision="v1.0", config="main", split="train")),
        ("hub:a/b@refs/pr/1", HubTask(name="a/b", revision="refs/pr/1")),
    ],
)
def test_a_typed_data_set_is_a_source_that_is_typed_so_again(typed, source):
    assert task_source(typed) == source
    assert source.typed == typed


@pytest.mark.parametrize("typed", ["hub:gsm8k", "hub:", "hub:../x", "hub:/x/y", "hub:a/b:c:d:e", "hub:a/b.jsonl:c d"])
def test_other_names_are_refused(typed):
    with pytest.raises(TaskError, match=r"is not one of .*hub:openai/gsm8k:main:test"):
        task_source(typed)


def test_sides_of_a_data_set_share_no_question(gsm8k):
    task = HubTask(name=gsm8k, config="main")

    with pytest.raises(TaskError, match="asked for 99 held-out problems, it has"):
        task.problems(99, np.random.default_rng(0))
    held_out = task.problems(2, np.random.default_rng(0))
    training = task.problems(2, np.random.default_rng(0), held_out=False)
    assert {row.prompt for row in held_out}.isdisjoint(row.prompt for row in training)
