"""Drafts cut and continued, against plain sampling and full passes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding
from lab.tasks.problem import Problem
from lab.test_time.method import PartialCompletion, continued, groups

PROMPTS = ("what is 2+3?", "no", "chains of unequal length are the point", "xyz")
PROBLEMS = [Problem(id=f"p{i}", prompt=text, answer="", family="all", source="test") for i, text in enumerate(PROMPTS)]
LIMIT = replace(GREEDY, max_new_tokens=20)
KEYS = np.arange(len(PROMPTS), dtype=np.uint64)


def most(logits):
    return logits.max(dim=-1).values


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


def greedy_drafts(model: Model) -> list[PartialCompletion]:
    return [
        PartialCompletion(
            prompt=tuple(model.tokenizer(trace_prompt).input_ids), tokens=trace.tokens, logprobs=trace.logprobs
        )
        for trace_prompt, trace in zip(PROMPTS, sample(model, PROBLEMS, 1, LIMIT, seed=0), strict=True)
    ]


def test_a_cut_draft_is_written_again_as_it_was(model):
    whole = greedy_drafts(model)
    cut = [partial.cut(n) for partial, n in zip(whole, (0, 3, 7, 19), strict=True)]
    again = continued(model, cut, KEYS, LIMIT, watch=most)
    assert [partial.tokens for partial in again] == [partial.tokens for partial in whole]
    for found, wanted in zip(again, whole, strict=True):
        np.testing.assert_allclose(found.logprobs, wanted.logprobs, atol=1e-4)


def test_notes_are_of_the_distribution_that_each_token_was_chosen_from(model):
    drafts = [PartialCompletion(prompt=partial.prompt) for partial in greedy_drafts(model)]
    for partial in continued(model, drafts, KEYS, LIMIT, watch=most):
        with torch.no_grad():
            logits = model.network(torch.tensor([[*partial.prompt, *partial.tokens]])).logits[0]
        wanted = logits[len(partial.prompt) - 1 : -1].max(dim=-1).values
        np.testing.assert_allclose(partial.notes, wanted.numpy(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_sampled_continuations_do_not_depend_on_the_batch(model, batch_size):
    cut = [partial.cut(n) for partial, n in zip(greedy_drafts(model), (0, 3, 7, 19), strict=True)]
    decoding = Decoding(max_new_tokens=20)
    reference = continued(model, cut, KEYS, decoding, watch=most)
    again = continued(model, cut, KEYS, decoding, watch=most, batch_size=batch_size)
    assert [partial.tokens for partial in again] == [partial.tokens for partial in reference]
    assert reference[0].tokens != greedy_drafts(model)[0].tokens


def test_an_ended_or_full_draft_stays_as_it_is(model):
    full, ended = (
        PartialCompletion(prompt=(65,), tokens=(66,) * 20),
        PartialCompletion(prompt=(65,), tokens=(66, 257), stop="eos"),
    )
    assert continued(model, [full, ended], KEYS[:2], LIMIT, watch=most) == [full, ended]


def test_an_end_token_ends_a_draft_and_the_text_does_not_show_it(model):
    drafts = [PartialCompletion(prompt=(65,))] * 400
    written = continued(model, drafts, np.arange(400, dtype=np.uint64), Decoding(max_new_tokens=20), watch=most)
    ended = [partial for partial in written if partial.stop == "eos"]
    assert ended
    assert all(partial.tokens.count(257) == 1 and partial.tokens[-1] == 257 for partial in ended)
    assert all(257 not in partial.tokens and len(partial.tokens) == 20 for partial in written if partial.stop is None)
    trace = ended[0].trace(model, PROBLEMS[0], 2, Decoding())
    assert (trace.stop, trace.sample_index, trace.routes) == ("eos", 2, (0,) * len(trace.tokens))
    assert "eos" not in trace.text


def test_a_stop_string_that_begins_before_the_cut_ends_the_text(model):
    whole = greedy_drafts(model)[0]
    # Random networks write any bytes; the stop string must be text.
    start = next(n for n in range(18) if all(32 < token < 127 for token in whole.tokens[n : n + 2]))
    stop = bytes(whole.tokens[start : start + 2]).decode()
    stopping = replace(LIMIT, stop=(stop,))
    (partial,) = continued(model, [whole.cut(start + 1)], KEYS[:1], stopping, watch=most)
    assert (partial.tokens, partial.stop) == (whole.tokens[: start + 2], "stop")
    assert stop not in partial.trace(model, PROBLEMS[0], 0, stopping).text


def test_no_group_writes_past_the_context_and_none_is_larger_than_the_batch(model):
    drafts = [PartialCompletion(prompt=(65,) * (240 - n), tokens=(65,) * n) for n in range(16)]
    room = [16 - len(partial.tokens) for partial in drafts]
    order = sorted(range(16), key=lambda index: room[index])
    found = list(groups(model, drafts, room, order, 6))
    assert [index for group in found for index in group] == order
    assert max(map(len, found)) == 6
    for group in found:
        longest = max(len(drafts[index].prompt) + len(drafts[index].tokens) for index in group)
        assert len(group) == 1 or longest + max(room[index] for index in group) <= 256


def test_drafts_that_fill_the_context_are_written_in_groups_of_equal_room(model):
    drafts = [PartialCompletion(prompt=(65,) * 240), PartialCompletion(prompt=(65,) * 240, tokens=(66,) * 15)]
    written = continued(model, drafts, KEYS[:2], replace(LIMIT, max_new_tokens=16), watch=most)
    assert [len(partial.tokens) for partial in written] == [16, 16]


def test_running_out_of_memory_halves_the_batch_and_one_row_too_many_is_a_clear_error(model, monkeypatch):
    drafts = [PartialCompletion(prompt=partial.prompt) for partial in greedy_drafts(model)]
    reference = continued(model, drafts, KEYS, LIMIT, watch=most)
    forward, room = type(model.network).forward, [2]

    def cramped(self, input_ids, **kwargs):
        if len(input_ids) > room[0]:
            raise torch.OutOfMemoryError("pretend")
        return forward(self, input_ids=input_ids, **kwargs)

    monkeypatch.setattr(type(model.network), "forward", cramped)
    again = continued(model, drafts, KEYS, LIMIT, watch=most)
    assert [partial.tokens for partial in again] == [partial.tokens for partial in reference]
    room[0] = 0
    with pytest.raises(DecodingError, match="memory ran out with a single row"):
        continued(model, drafts, KEYS, LIMIT, watch=most)
