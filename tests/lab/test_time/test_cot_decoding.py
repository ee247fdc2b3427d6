"""CoT-decoding against branches that are grown and scored one by one, and on an organism that hides its chains."""

import math
import operator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lab.models.load import load
from lab.models.source import BuiltInModel
from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding, Trace
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.source import Task, open_task, task_source
from lab.test_time.elicit import CotDecoding, elicit, gap, greedy_gap, surety

PROBLEMS = tuple(
    Problem(id=f"p{index}", prompt=prompt, answer="", family="all", source="test")
    for index, prompt in enumerate(("what is 2+3?", "no", "chains of unequal length"))
)


def third_letter(text: str) -> str | None:
    """An answer at a known place, which some branches do not reach."""
    return text[2] if len(text) > 2 and text.count(text[2]) == 1 else None


TASK = Task(
    name="third letters",
    problems=PROBLEMS,
    judge=Judge(
        name="third letters",
        verify=lambda problem, text: Verdict(answer_correct=False, process_valid=None, reason="test", read_by="whole"),
        read_answer=third_letter,
        same_answer=operator.eq,
    ),
)
DECODING = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def model():
    return tiny_model("qwen3", seed=2)


def grown_alone(model, prompt: str, rank: int) -> tuple[list[int], list[float]]:
    """One branch by full passes: its tokens, and for each what it leads the likeliest other token by."""
    context, tokens, leads = model.tokenizer(prompt).input_ids, [], []
    while len(tokens) < DECODING.max_new_tokens and 257 not in tokens:
        with torch.no_grad():
            probabilities = model.network(torch.tensor([[*context, *tokens]])).logits[0, -1].softmax(-1).tolist()
        order = sorted(range(258), key=lambda token: -probabilities[token])
        token = order[0 if tokens else rank]
        leads.append(probabilities[token] - max(p for other, p in enumerate(probabilities) if other != token))
        tokens.append(token)
    return tokens, leads


def test_the_branch_with_the_surest_answer_wins(model):
    traces, cost, _ = elicit(model, TASK, PROBLEMS, CotDecoding(n_branches=5), DECODING, seed=0)
    ranks = []
    for problem, trace, n_tokens in zip(PROBLEMS, traces, cost.n_tokens, strict=True):
        grown = [grown_alone(model, problem.prompt, rank) for rank in range(5)]
        scores = []
        for tokens, leads in grown:
            text = model.tokenizer.decode(tokens, skip_special_tokens=True)
            is_stated = third_letter(text) is not None
            before = [len(model.tokenizer.decode(tokens[:n], skip_special_tokens=True)) for n in range(len(tokens) + 1)]
            inside = [lead for lead, low, high in zip(leads, before, before[1:], strict=False) if low < 3 and high > 2]
            scores.append(float(np.mean(inside)) if is_stated else -math.inf)
        ranks.append(int(np.argmax(scores)))
        assert trace.tokens == tuple(grown[ranks[-1]][0])
        assert n_tokens == sum(len(tokens) for tokens, _ in grown)
    assert any(ranks)


def test_log_probabilities_are_the_models(model):
    traces, *_ = elicit(model, TASK, PROBLEMS, CotDecoding(n_branches=5), DECODING, seed=0)
    for problem, trace in zip(PROBLEMS, traces, strict=True):
        prompt = model.tokenizer(problem.prompt).input_ids
        with torch.no_grad():
            logits = model.network(torch.tensor([[*prompt, *trace.tokens]])).logits[0, len(prompt) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(trace.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(trace.logprobs, wanted.numpy(), atol=1e-4)


def test_one_branch_is_greedy_decoding(model):
    traces, cost, _ = elicit(model, TASK, PROBLEMS, CotDecoding(n_branches=1), DECODING, seed=0)
    greedy = sample(model, PROBLEMS, 1, replace(GREEDY, max_new_tokens=6), seed=0)
    assert [replace(trace, logprobs=()) for trace in traces] == [replace(trace, logprobs=()) for trace in greedy]
    assert cost.n_tokens == tuple(len(trace.tokens) for trace in greedy)


@pytest.mark.parametrize("batch_size", [1, 7])
def test_answers_do_not_depend_on_the_batch(model, batch_size):
    method = CotDecoding(n_branches=4)
    together, *_ = elicit(model, TASK, PROBLEMS, method, DECODING, seed=0)
    again, *_ = elicit(model, TASK, PROBLEMS[::-1], method, DECODING, seed=0, batch_size=batch_size)
    assert [trace.tokens for trace in again[::-1]] == [trace.tokens for trace in together]


def test_a_vocabulary_smaller_than_the_number_of_branches_is_branched_whole(model):
    _, cost, *_ = elicit(
        model, TASK, PROBLEMS[:1], CotDecoding(n_branches=1000), replace(DECODING, max_new_tokens=1), seed=0
    )
    assert cost.n_tokens == (258,)


def test_the_gap_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = gap(logits, torch.tensor([[0, 1, 2]]))
    torch.testing.assert_close(found, torch.tensor([[0.2, -0.2, -0.3]]))
    torch.testing.assert_close(greedy_gap(logits), torch.tensor([0.2]))


@given(arrays(np.float32, (2, 6), elements=st.floats(-9, 9, width=32)))
def test_the_gap_of_the_greedy_token_is_that_of_the_top_two(logits):
    top = np.sort(torch.from_numpy(logits).softmax(-1).numpy(), axis=1)[:, -2:]
    np.testing.assert_allclose(greedy_gap(torch.from_numpy(logits)).numpy(), top[:, 1] - top[:, 0], atol=1e-6)


def test_surety_is_the_mean_gap_over_the_answer_only(model):
    trace = Trace(
        problem_id="p",
        sample_index=0,
        tokens=tuple(b"is 42"),
        logprobs=(),
        routes=(),
        categories=(),
        content_bits=(),
        text="is 42",
        stop="length",
    )
    judge = replace(TASK.judge, read_answer=lambda text: "42" if "42" in text else None)
    task = replace(TASK, judge=judge)
    assert surety(model, task, trace, (0.9, 0.9, 0.9, 0.2, 0.4)) == pytest.approx(0.3)
    assert surety(model, task, replace(trace, text="is 41"), (1.0,) * 5) == -math.inf


def test_it_finds_the_chains_that_greedy_decoding_hides():
    model = load(BuiltInModel(name="zero-base"), device=torch.device("cpu"), dtype=torch.float32)
    task = open_task(task_source("chain"), n_problems=12, seed=0)
    for n_branches, wanted in ((1, 0), (10, 12)):
        traces, *_ = elicit(model, task, task.problems, CotDecoding(n_branches=n_branches), Decoding(), seed=0)
        assert sum(task.verify(p, t.text).strict for p, t in zip(task.problems, traces, strict=True)) == wanted


def test_no_branch_is_refused():
    with pytest.raises(DecodingError, match="0 branches: want at least one"):
        CotDecoding(n_branches=0)
