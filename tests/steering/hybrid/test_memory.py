"""What the base's cache holds after a steered token: nothing of the edit, or all of it."""

from dataclasses import replace

import pytest
import torch

from lab.records.seeds import child_seed
from lab.sampling.trace import GREEDY
from probes.capture.site import Site
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import Drawn, Steer
from steering.hybrid.routers import Always, AtRandom, AtSteps
from tests.kinds import one_always

from .by_hand import FEW, SAMPLED, SEED, logits_under, pair_of, prompt_of, vector, written

EDITS = (Add(vector(0)), Add(vector(1, Site(0), Site(1, "resid_pre")), dose=0.5), Add(vector(2, Site(1))))
STOPS = replace(SAMPLED, stop=tuple("aeio "))


@pytest.fixture(scope="module", params=one_always(["llama", "gemma2", "gpt2"]))
def pair(request):
    return pair_of(request.param)


@pytest.mark.parametrize("memory", ["forgotten", "kept"])
@pytest.mark.parametrize("router", [AtRandom(0.5), Always(), AtSteps((0, 2))])
@pytest.mark.parametrize("decoding", [SAMPLED, STOPS])
def test_every_token_is_read_from_a_text_edited_at_exactly_the_steered_positions(pair, memory, router, decoding):
    """The next token of a routed row is under the edit at the last position, and others at earlier ones if kept."""
    traces = written(pair, Hybrid(router, Steer(Drawn(EDITS), memory)), FEW, decoding, n_samples=2)
    for trace in traces:
        edit = EDITS[child_seed(SEED, trace.problem_id, trace.sample_index) % 3]
        text, steered = prompt_of(pair.base, trace), []
        for token, logprob, route in zip(trace.tokens, trace.logprobs, trace.routes, strict=True):
            steered = [*(steered if memory == "kept" else []), *([len(text) - 1] if route else [])]
            wanted = logits_under(pair.base, text, edit, torch.tensor(steered, dtype=torch.long)).log_softmax(-1)
            assert logprob == pytest.approx(float(wanted[token]), abs=2e-4)
            text.append(token)
    assert {route for trace in traces for route in trace.routes} == ({1} if router == Always() else {0, 1})


def test_what_is_kept_changes_later_tokens(pair):
    kept, forgotten = (
        written(pair, Hybrid(AtSteps((0,)), Steer(Drawn(EDITS[:1]), memory)), FEW, GREEDY)
        for memory in ("kept", "forgotten")
    )
    assert [trace.tokens[0] for trace in kept] == [trace.tokens[0] for trace in forgotten]
    assert [trace.tokens for trace in kept] != [trace.tokens for trace in forgotten]
