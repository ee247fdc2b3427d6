"""The likeliest letter by hand, and a random one."""

from dataclasses import replace

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.sampling.trace import Decoding
from lab.tasks.choice_answer import CHOICE
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.elicit import METHODS, elicit
from lab.test_time.letters import OPENING, RandomLetter

PROBLEMS = tuple(
    Problem(id=f"p{n}", prompt=f"which is {n}?", answer="A", family="f", source="s", choices=("1", "2", "3"))
    for n in range(5)
)
TASK = Task(name="choices", problems=PROBLEMS, judge=CHOICE)
DECODING = Decoding(max_new_tokens=4)


def test_the_letter_of_highest_log_probability_is_answered_whatever_the_batch():
    model = tiny_model("llama")
    found = elicit(model, TASK, PROBLEMS, METHODS["letter"](TASK), DECODING, n_samples=3, seed=0, batch_size=2)
    assert [trace.problem_id for trace in found.traces] == [problem.id for problem in PROBLEMS]
    for problem, trace in zip(PROBLEMS, found.traces, strict=True):
        ids = model.tokenizer(f"{problem.prompt}{OPENING} ").input_ids
        logprobs = model.network(torch.tensor([ids])).logits[0, -1].log_softmax(dim=-1)
        by_letter = {letter: float(logprobs[model.tokenizer(letter).input_ids[-1]]) for letter in "ABC"}
        best = max(by_letter, key=by_letter.__getitem__)
        assert trace.text == f"{OPENING} {best}"
        assert trace.logprobs[-1] == pytest.approx(by_letter[best], abs=1e-4)
        assert CHOICE.verify(problem, trace.text).answer_correct == (best == "A")
    assert found.cost.n_tokens == (1,) * 5


def test_a_random_letter_is_one_of_the_choices_and_drawn_by_problem_and_sample():
    model = tiny_model("llama")
    found = elicit(model, TASK, PROBLEMS, RandomLetter(), DECODING, n_samples=40, seed=0)
    texts = [trace.text for trace in found.traces]
    assert {text.removeprefix(f"{OPENING} ") for text in texts} == {"A", "B", "C"}
    assert [
        trace.text for trace in elicit(model, TASK, PROBLEMS[1:2], RandomLetter(), DECODING, seed=0).traces
    ] == texts[40:41]


def test_a_problem_without_choices_is_refused():
    bare = (replace(PROBLEMS[0], choices=()),)
    with pytest.raises(DecodingError, match="'p0' has no choices: want at least two"):
        elicit(tiny_model("llama"), TASK, bare, METHODS["letter"](TASK), DECODING, seed=0)
