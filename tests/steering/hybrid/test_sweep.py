"""Sweeps against their definition: a full pass for every candidate, one row, no cache."""

from dataclasses import replace
from math import log2

import numpy as np
import pytest
import torch

from lab.records.errors import VectorError
from lab.records.seeds import child_seed
from lab.sampling.trace import GREEDY
from probes.capture.site import Site
from steering.edit import Ablate, Add
from steering.gate import WhileWriting
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import (
    Drawn,
    FirstChooser,
    RandomChooser,
    Steer,
    Sweep,
    TunedChooser,
    chosen,
    n_different,
    pass_widths,
)
from steering.hybrid.routers import Always, AtRandom, AtSteps, Disagreement
from tests.kinds import one_always

from .by_hand import FEW, SAMPLED, SEED, logits_under, pair_of, prompt_of, vector, written

EDITS = (Add(vector(0)), Add(vector(1, Site(0), Site(1, "resid_pre")), dose=0.5), Add(vector(2, Site(1))))
TABLE = Drawn(EDITS)
DOSES, WINDOWS = (0.5, -1.0), (1, 4, None)
SHORT = replace(SAMPLED, max_new_tokens=6)


@pytest.fixture(scope="module", params=one_always(["llama", "gemma2", "gpt2"]))
def pair(request):
    return pair_of(request.param)


@pytest.fixture(scope="module")
def llamas():
    return pair_of("llama")


def by_definition(pair, text, edit) -> list[int]:
    """The candidate of each dose and window, dose by dose."""
    return [
        int(logits_under(pair.base, text, edit, slice(None if n is None else -min(n, len(text)), None), dose).argmax())
        for dose in DOSES
        for n in WINDOWS
    ]


def test_a_swept_token_is_the_candidate_that_the_tuned_model_likes_best(pair):
    hybrid = Hybrid(AtRandom(0.6), Sweep(TABLE, DOSES, WINDOWS, TunedChooser()))
    traces = written(pair, hybrid, FEW, SHORT)
    paid = set()
    for trace in traces:
        edit, text = EDITS[child_seed(SEED, trace.problem_id, 0) % 3], prompt_of(pair.base, trace)
        for token, logprob, route, bits in zip(
            trace.tokens, trace.logprobs, trace.routes, trace.content_bits, strict=True
        ):
            if route:
                candidates = by_definition(pair, text, edit)
                assert token == max(candidates, key=lambda one: float(logits_under(pair.tuned, text)[one]))
                assert bits == pytest.approx(log2(len(set(candidates))))
                assert logprob == 0, "it was certain"
                paid.add(bits)
            else:
                # What is read after a sweep is the base's own: nothing of a candidate stays in the cache.
                wanted = logits_under(pair.base, text).log_softmax(-1)[token]
                assert logprob == pytest.approx(float(wanted), abs=2e-4)
                assert bits == 0
            text.append(token)
    assert {route for trace in traces for route in trace.routes} == {0, 1}
    assert len(paid) > 1


def test_the_first_candidate_at_dose_one_and_window_one_is_greedy_steering(pair):
    for router in (AtRandom(0.5), Always()):
        swept = written(pair, Hybrid(router, Sweep(TABLE, (1.0, 2.0), (1, 3), FirstChooser())), FEW, GREEDY)
        steered = written(pair, Hybrid(router, Steer(TABLE)), FEW, GREEDY)
        assert [(trace.tokens, trace.routes) for trace in swept] == [(trace.tokens, trace.routes) for trace in steered]


@pytest.mark.parametrize("chooser", [TunedChooser(), RandomChooser()])
def test_a_swept_text_does_not_depend_on_its_batch(llamas, chooser):
    stops = replace(SAMPLED, stop=tuple("aeio "), max_new_tokens=8)
    hybrid = Hybrid(AtRandom(0.6), Sweep(TABLE, DOSES, WINDOWS, chooser))
    together = written(llamas, hybrid, FEW, stops, n_samples=2)
    # A batch of one row also has the fewest candidates in a pass.
    for batch_size, problems in ((1, FEW), (5, FEW[::-1])):
        again = written(llamas, hybrid, problems, stops, n_samples=2, batch_size=batch_size)
        key = [(trace.problem_id, trace.sample_index) for trace in together]
        assert sorted(key) == sorted((trace.problem_id, trace.sample_index) for trace in again)
        found = {(trace.problem_id, trace.sample_index): trace for trace in again}
        assert [(trace.tokens, trace.routes) for trace in together] == [
            (found[name].tokens, found[name].routes) for name in key
        ]


def test_only_a_choice_by_the_tuned_model_costs_bits(llamas):
    for chooser in (RandomChooser(), FirstChooser()):
        hybrid = Hybrid(AtSteps((0, 1)), Sweep(TABLE, DOSES, WINDOWS, chooser))
        assert not hybrid.needs_tuned
        assert {bits for trace in written(llamas, hybrid, FEW, SHORT) for bits in trace.content_bits} == {0}
        assert Hybrid(Disagreement(), hybrid.intervention).needs_tuned
    assert Hybrid(AtSteps((0,)), Sweep(TABLE, DOSES, WINDOWS, TunedChooser())).needs_tuned


def test_windows_that_cover_a_text_share_a_pass_and_others_have_one_of_their_own_width():
    n_tokens = torch.tensor([30, 12, 9])
    assert pass_widths((None, 1, 10, 50), n_tokens).tolist() == [[30, 1, 10, 30], [30, 1, 10, 30], [30, 1, 30, 30]]
    assert pass_widths((1, 10), n_tokens).tolist() == [[1, 10], [1, 10], [1, 9]], "as wide as the longest covered text"
    assert pass_widths((1,), n_tokens).unique().tolist() == [1]


def test_choosers_by_hand():
    tokens = torch.tensor([[3, 1, 2], [0, 0, 1]])
    likes = torch.tensor([[9.0, 2.0, 5.0, 1.0], [1.0, 1.0, 8.0, 9.0]])
    known = {"keys": np.array([1, 2], dtype=np.uint64), "step": 0, "tuned_logits": likes}
    assert chosen(TunedChooser(), tokens, **known).tolist() == [2, 0]
    assert chosen(TunedChooser(), tokens.flip(1), **known).tolist() == [2, 1], "of equals the first"
    assert chosen(FirstChooser(), tokens, **known).tolist() == [3, 0]
    assert n_different(tokens).tolist() == [3, 2]
    assert n_different(tokens[:, :1]).tolist() == [1, 1]


def test_a_random_chooser_takes_every_candidate_about_equally_often():
    n = 4000
    keys = np.array([child_seed(0, "row", index) for index in range(n)], dtype=np.uint64)
    tokens = torch.arange(4).expand(n, 4)
    counts = chosen(RandomChooser(), tokens, keys=keys, step=5, tuned_logits=None).bincount(minlength=4)
    assert float((counts - n / 4).abs().max()) < 4 * (n * 3 / 16) ** 0.5


@pytest.mark.parametrize(
    ("table", "doses", "windows", "complaint"),
    [
        (Drawn((Ablate(vector(0)),)), (1.0,), (1,), "edits other than Add"),
        (Drawn((Add(vector(0), where=WhileWriting((0,))),)), (1.0,), (1,), "with a gate"),
        (TABLE, (), (1,), r"the doses \[\]: want at least one"),
        (TABLE, (float("nan"),), (1,), "finite numbers"),
        (TABLE, (1.0,), (), r"the windows \[\]: want at least one"),
        (TABLE, (1.0,), (0,), "from 1 on or None"),
    ],
)
def test_an_impossible_sweep_is_refused(table, doses, windows, complaint):
    with pytest.raises(VectorError, match=complaint):
        Sweep(table, doses, windows, FirstChooser())
