"""Completions written on and read for their first answer."""

from dataclasses import replace

import pytest

from lab.models.engine import ScriptedEngine
from lab.models.tiny import EOS, byte_tokenizer, tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, trace_table, verdict_table
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem
from lab.tasks.source import Task, open_task, task_source
from lab.test_time.elicit import elicit
from lab.test_time.reading import LenientReading

PROBLEMS = tuple(
    Problem(id=f"p{index}", prompt=prompt, answer="5", family="all", source="test")
    for index, prompt in enumerate(("what is 2+3?", "no"))
)
DECODING = Decoding(max_new_tokens=4, stop=("e",))


def reading(first_answer, factor=3.0, decoding=DECODING):
    model = tiny_model("llama", seed=1)
    task = Task(name="texts", problems=PROBLEMS, judge=replace(MATH, first_answer=first_answer))
    found = elicit(model, task, PROBLEMS, LenientReading(factor=factor), decoding, n_samples=3, seed=7)
    plain = sample(model, PROBLEMS, 3, replace(decoding, stop=()), seed=7)
    return found, plain


def test_without_an_answer_the_same_completions_are_written_on():
    found, plain = reading(lambda text: None)
    for longer, trace in zip(found.traces, plain, strict=True):
        assert longer.tokens[: len(trace.tokens)] == trace.tokens
        assert len(longer.tokens) == 12 or longer.stop == "eos"
    assert sum(found.cost.n_tokens) == sum(len(trace.tokens) for trace in found.traces)


def test_one_with_an_answer_is_cut_behind_it_and_not_written_on():
    found, plain = reading(lambda text: min(2, len(text)))
    assert [trace.tokens for trace in found.traces] == [trace.tokens for trace in plain]
    assert [trace.text for trace in found.traces] == [trace.text[:2] for trace in plain]
    assert {trace.stop for trace in found.traces} == {"stop"}


def test_greedy_completions_are_one_each():
    found, _ = reading(lambda text: None, decoding=replace(DECODING, temperature=0.0))
    assert len(found.traces) == len(PROBLEMS)


def test_none_is_written_past_the_context():
    model = tiny_model("llama", seed=1)
    context = model.network.config.max_position_embeddings
    found, _ = reading(lambda text: None, factor=1e9)
    assert max(len(trace.tokens) for trace in found.traces) + len("what is 2+3?") <= context + 1


SCRIPTS = [
    "<think>So it is \\boxed{5}, or maybe 7. Let me see",
    "7\n\nQuestion: What is 2+4?\nThe answer is 6.",
    "Let me count for very long before the answer is 5. Then 8",
    "I cannot tell",
]


def test_replayed_completions_are_read_for_their_first_answer_however_long():
    engine = ScriptedEngine(texts={"p0": SCRIPTS}, tokenizer=byte_tokenizer(), end=EOS)
    task = Task(name="texts", problems=PROBLEMS[:1], judge=MATH)
    model, decoding = replace(tiny_model("llama"), engine=engine), Decoding(max_new_tokens=30)
    found = elicit(model, task, PROBLEMS[:1], LenientReading(), decoding, n_samples=4, seed=0)
    verdicts = verdict_table(trace_table("read", found.traces), PROBLEMS[:1], MATH.verify)
    assert verdicts["outcome"].to_list() == ["right", "wrong", "right", "no answer"]
    plain = trace_table("base", sample(model, PROBLEMS[:1], 4, decoding, seed=0))
    assert verdict_table(plain, PROBLEMS[:1], MATH.verify)["outcome"].to_list() == ["cut", "wrong", "cut", "no answer"]


def test_a_task_of_chains_has_no_first_answer_and_bad_factors_are_refused():
    task = open_task(task_source("chain"), n_problems=2, seed=0)
    with pytest.raises(DecodingError, match="no first answer"):
        elicit(tiny_model("llama"), task, task.problems, LenientReading(), DECODING, seed=0)
    with pytest.raises(DecodingError, match="at least 1"):
        LenientReading(factor=0.5)
