"""Texts hold the very tokens that were sampled, behind the prompt as the reading model tokenizes it."""

import polars as pl
import pytest

from lab.models.tiny import tiny_model
from lab.records.errors import StorageError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, trace_table
from lab.tasks.problem import Problem, problem_table
from probes.capture.site import TEXTS, texts, texts_digest

PROBLEMS = [
    Problem(id=f"p{index}", prompt=prompt, answer="", family="", source="")
    for index, prompt in enumerate(["2+2?", "why?", "and so on"])
]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", seed=1)


@pytest.fixture(scope="module")
def traces(model) -> pl.DataFrame:
    return trace_table("arm", sample(model, PROBLEMS[:2], 2, Decoding(max_new_tokens=6), seed=0))


def test_texts_are_prompts_and_the_sampled_tokens_in_the_order_of_the_traces(model, traces):
    found = TEXTS.checked(texts(model, traces[::-1], problem_table(PROBLEMS)))
    assert found["problem_id"].to_list() == ["p1", "p1", "p0", "p0"]
    assert found["sample_index"].to_list() == [1, 0, 1, 0]
    assert found["completion"].to_list() == traces["tokens"].to_list()[::-1]
    assert found["prompt"].to_list() == [model.tokenizer(text).input_ids for text in ["why?"] * 2 + ["2+2?"] * 2]


def test_a_trace_without_its_problem_is_refused_by_name(model, traces):
    with pytest.raises(StorageError, match="answer 1 problems, such as 'p1', that are not among the problems: want"):
        texts(model, traces, problem_table(PROBLEMS[:1]))


def test_tokens_that_the_model_does_not_have_are_refused(model, traces):
    foreign = traces.with_columns(pl.lit([999], dtype=pl.List(pl.Int32)).alias("tokens"))
    with pytest.raises(StorageError, match="token 999, and tiny-llama-1 has 258: want traces by a model of the same"):
        texts(model, foreign, problem_table(PROBLEMS))


def test_the_digest_tells_texts_apart_and_nothing_else():
    def made(**columns):
        row = {"problem_id": "a", "sample_index": 0, "prompt": [1, 2], "completion": [3]} | columns
        return TEXTS.frame([row, row | {"sample_index": 1}])

    first = texts_digest(made())
    assert first == texts_digest(made())
    others = [
        made(problem_id="b"),
        made(sample_index=2),
        made(prompt=[1], completion=[2, 3]),
        made(completion=[]),
        made(prompt=[], completion=[]),
        made()[::-1],
        made()[:1],
    ]
    assert len({first, *map(texts_digest, others)}) == 1 + len(others)
