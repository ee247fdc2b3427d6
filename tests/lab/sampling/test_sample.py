"""Sampling against transformers' own generation, and against itself under other batches."""

from dataclasses import replace

import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import GREEDY, Decoding
from lab.tasks.problem import Problem

PROMPTS = ("a", "what is 2+3?", "chains of unequal length are the point of this one", "x" * 31, "no")
SAMPLED = Decoding(max_new_tokens=24)


def problems_from(prompts: tuple[str, ...]) -> tuple[Problem, ...]:
    return tuple(
        Problem(id=f"p{index}", prompt=prompt, answer="", family="all", source="test")
        for index, prompt in enumerate(prompts)
    )


PROBLEMS = problems_from(PROMPTS)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma"])
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


def test_greedy_decoding_equals_transformers_generate_token_for_token(model):
    decoding = replace(GREEDY, max_new_tokens=40)
    traces = sample(model, PROBLEMS, 1, decoding, seed=0)
    padded = model.tokenizer(list(PROMPTS), return_tensors="pt", padding=True)
    generated = model.network.generate(
        **padded,
        max_new_tokens=40,
        do_sample=False,
        pad_token_id=model.tokenizer.pad_token_id,
        eos_token_id=sorted(model.ends),
    )
    width = padded.input_ids.shape[1]
    assert len({trace.tokens for trace in traces}) > 1
    for trace, row in zip(traces, generated.tolist(), strict=True):
        continuation = row[width:]
        assert list(trace.tokens) == continuation[: len(trace.tokens)]
        assert all(token == model.tokenizer.pad_token_id for token in continuation[len(trace.tokens) :])


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_samples_do_not_depend_on_the_batch_size(model, batch_size):
    reference = sample(model, PROBLEMS, 6, SAMPLED, seed=3, batch_size=30)
    again = sample(model, PROBLEMS, 6, SAMPLED, seed=3, batch_size=batch_size)
    assert [trace.tokens for trace in again] == [trace.tokens for trace in reference]


def test_samples_do_not_depend_on_the_order_of_problems(model):
    forward = sample(model, PROBLEMS, 4, SAMPLED, seed=3, batch_size=7)
    backward = sample(model, PROBLEMS[::-1], 4, SAMPLED, seed=3, batch_size=7)
    key = lambda trace: (trace.problem_id, trace.sample_index)  # noqa: E731
    assert [t.tokens for t in sorted(forward, key=key)] == [t.tokens for t in sorted(backward, key=key)]


def test_samples_of_one_prompt_differ_and_seeds_differ(model):
    traces = sample(model, PROBLEMS[:1], 8, SAMPLED, seed=3)
    assert len({trace.tokens for trace in traces}) > 1
    other = sample(model, PROBLEMS[:1], 8, SAMPLED, seed=4)
    assert [trace.tokens for trace in traces] != [trace.tokens for trace in other]


def test_log_probabilities_equal_a_teacher_forced_pass(model):
    (trace,) = sample(model, PROBLEMS[1:2], 1, SAMPLED, seed=1)
    prompt = encode_prompt(model, PROBLEMS[1], SAMPLED)
    with torch.no_grad():
        logits = model.network(torch.tensor([[*prompt, *trace.tokens]])).logits[0, len(prompt) - 1 : -1]
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(trace.tokens)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(trace.logprobs), wanted, atol=1e-4, rtol=1e-4)


def test_running_out_of_memory_halves_the_batch_and_changes_no_sample(model, monkeypatch):
    reference = sample(model, PROBLEMS, 4, SAMPLED, seed=2)
    forward, sizes = type(model.network).forward, []

    def cramped(self, input_ids, **kwargs):
        if len(input_ids) > 6:
            raise torch.OutOfMemoryError("pretend")
        sizes.append(len(input_ids))
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model.network), "forward", cramped)
    again = sample(model, PROBLEMS, 4, SAMPLED, seed=2, batch_size=20)
    assert [trace.tokens for trace in again] == [trace.tokens for trace in reference]
    assert max(sizes) <= 6


def test_memory_too_small_for_one_row_is_a_clear_error(model, monkeypatch):
    def full(self, **kwargs):
        raise torch.OutOfMemoryError("pretend")

    monkeypatch.setattr(type(model.network), "forward", full)
    with pytest.raises(DecodingError, match="memory ran out with a single row"):
        sample(model, PROBLEMS, 2, SAMPLED, seed=2, batch_size=8)


def test_a_stop_string_ends_the_text_before_it(model):
    (free,) = sample(model, PROBLEMS[2:3], 1, SAMPLED, seed=9)
    stop = free.text[5:7]
    (stopped,) = sample(model, PROBLEMS[2:3], 1, replace(SAMPLED, stop=(stop,)), seed=9)
    assert stopped.stop == "stop"
    assert stopped.text == free.text[: free.text.index(stop)]


def test_progress_counts_every_completion(model):
    counts = []
    sample(model, PROBLEMS, 3, SAMPLED, seed=0, batch_size=4, on_progress=counts.append)
    assert sum(counts) == 15


def test_logits_that_are_not_finite_are_a_clear_error():
    model = tiny_model("llama", seed=1)
    with torch.no_grad():
        model.network.lm_head.weight[7] = float("nan")
    with pytest.raises(DecodingError, match="not finite"):
        sample(model, PROBLEMS, 1, SAMPLED, seed=0)


@pytest.mark.parametrize(
    ("problems", "n_samples", "decoding", "message"),
    [
        ((), 1, SAMPLED, "want at least one"),
        (PROBLEMS, 0, SAMPLED, "want at least one"),
        (problems_from(("",)), 1, SAMPLED, "no tokens"),
        (PROBLEMS, 1, Decoding(max_new_tokens=10**6), "exceed the context"),
    ],
)
def test_impossible_requests_are_clear_errors(problems, n_samples, decoding, message):
    with pytest.raises(DecodingError, match=message):
        sample(tiny_model("llama", seed=1), problems, n_samples, decoding, seed=0)
