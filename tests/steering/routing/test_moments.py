"""Moments are tokens in texts, and what stands before them is what a model alone, without padding, has there."""

import numpy as np
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from probes.capture.capture import capture
from probes.capture.site import Site
from steering.routing.category_vectors import moments, streams_before
from tests.kinds import one_always
from tests.steering.routing.conftest import decision_frame, planted, problem, trace_frame

TEXTS = {"1?": ("ab", "c"), "22=": ("d?e",)}


def test_every_token_of_every_completion_is_a_moment(model):
    found = moments(model, *written_of(TEXTS))
    assert found.texts.tolist() == [0, 0, 1, 2, 2, 2]
    assert found.positions.tolist() == [0, 1, 0, 0, 1, 2]
    assert found.decided.tolist() == [True, False, True, False, False, True]
    assert found.problems.tolist() == [0, 0, 0, 1, 1, 1]
    assert found.decided_share == 3 / 6
    assert found.rows[2] == (list(b"22="), list(b"d?e"))


def test_some_moments_stand_in_the_same_texts(model):
    found = moments(model, *written_of(TEXTS))
    some = found.of(found.decided)
    assert some.texts.tolist() == [0, 1, 2]
    assert some.positions.tolist() == [0, 0, 2]
    assert some.rows is found.rows


def test_no_moment_has_no_share_of_decisions(model):
    none = moments(model, trace_frame({}), decision_frame([]), {})
    assert np.isnan(none.decided_share)


@pytest.mark.parametrize("family", one_always(["llama", "gemma2", "gpt2"]))
def test_a_stream_is_that_of_the_text_alone_up_to_the_token_before(family):
    model, site = tiny_model(family, seed=3), Site(1)
    found = moments(model, *written_of({"1?": ("ab", "c"), "a much longer prompt =": ("d?e", "")}))
    order = np.random.default_rng(0).permutation(len(found.texts))
    texts, positions = found.texts[order], found.positions[order]
    streams = streams_before(model, site, found.rows, texts, positions)
    for stream, text, position in zip(streams, texts, positions, strict=True):
        row = found.rows[text]
        tokens = torch.tensor([row.context + row.completion[:position]])
        alone = capture(model, tokens, torch.ones_like(tokens).bool(), [site])[site][0, -1]
        torch.testing.assert_close(stream, alone, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stray", [("1?", 0, 2, 33), ("1?", 2, 0, 33), ("9?", 0, 0, 33)])
def test_a_decision_at_a_token_that_no_trace_has_is_refused(model, stray):
    problems, traces, _ = planted(TEXTS)
    with pytest.raises(VectorError, match=r"^1 disagreements, such as .* want the disagreements of these 3 traces$"):
        moments(model, traces, decision_frame([("1?", 0, 0, 33), stray]), problems)


def written_of(texts):
    """Arguments of `moments` behind the model."""
    problems = {problem(prompt).id: problem(prompt) for prompt in texts}
    return trace_frame(texts), planted(texts).disagreements, problems
