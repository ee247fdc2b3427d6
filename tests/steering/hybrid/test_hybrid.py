"""Hybrids against their own definition: full passes of both models for every token, one row, no cache."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import VectorError
from lab.records.seeds import child_seed, uniforms
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, pick
from probes.capture.site import Site, hook_site
from steering.edit import Ablate, Add, Rotate, apply
from steering.gate import AtPositions, WhileWriting
from steering.hybrid.hybrid import Hybrid, Moment, View, insisting
from steering.hybrid.interventions import Drawn, LikelyToken, SecondChoice, Steer, Takeover
from steering.hybrid.routers import Always, AtRandom, AtSteps, Disagreement, Never, Reranked
from tests.kinds import one_always

from .by_hand import FEW, PROBLEMS, SAMPLED, SEED, pair_of, vector, written

FAMILIES = ["llama", "gemma2", "gpt2"]
SHORT = replace(GREEDY, max_new_tokens=8)


@pytest.fixture(scope="module", params=one_always(FAMILIES))
def pair(request) -> ModelPair:
    return pair_of(request.param)


@pytest.fixture(scope="module")
def llamas() -> ModelPair:
    return pair_of("llama")


STEER = Steer(Drawn((Add(vector(0)),)))
SEVERAL = Steer(
    Drawn((Add(vector(0)), Add(vector(1, Site(0), Site(1, "resid_pre")), dose=0.5), Add(vector(2, Site(1)))))
)


@torch.no_grad()
def last_logits(model: Model, text, edit=None):
    """One full pass over `text`, without padding or cache, the vector added at its last position alone."""
    handles = []
    for site, direction in {} if edit is None else edit.vector.directions.items():

        def add(stream, direction=direction):
            stream = stream.clone()
            stream[:, -1] += edit.dose * direction
            return stream

        handles.append(hook_site(model, site, add))
    try:
        return model.network(torch.tensor([text]), use_cache=False).logits[:, -1]
    finally:
        for handle in handles:
            handle.remove()


# Fixed: another key would be another control.
CHOICE_KEY = np.uint64(0x3C3C3C3C3C3C3C3C)


def ranked(logits) -> list[int]:
    return logits[0].argsort(descending=True).tolist()


def certain(logits, token):
    return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([token]), 0.0)


def by_definition(pair, hybrid, problem, decoding, sample_index=0):
    """(tokens, routes) of one completion, by the algorithm as one would say it."""
    key = np.array([child_seed(SEED, problem.id, sample_index)], dtype=np.uint64)
    prompt, tokens, routes = list(pair.base.tokenizer(problem.prompt).input_ids), [], []
    for step in range(decoding.max_new_tokens):
        text = prompt + tokens
        base, tuned = last_logits(pair.base, text), last_logits(pair.tuned, text)
        logits, writer = base, 0
        now = Moment(step=step, keys=key, base=View(base, {}), tuned=View(tuned, {}))
        if bool(hybrid.router.route(now)[0]):
            match hybrid.intervention:
                case Steer(table=Drawn(edits=edits)):
                    logits, writer = last_logits(pair.base, text, edits[int(key[0]) % len(edits)]), 1
                case Takeover():
                    logits, writer = tuned, 2
                case SecondChoice():
                    logits, writer = certain(logits, ranked(base)[1]), 1
                case LikelyToken(top=top):
                    number = uniforms(key ^ CHOICE_KEY, step)[0]
                    logits, writer = certain(logits, ranked(base)[int(number * top)]), 1
        tokens.append(int(pick(logits, torch.from_numpy(uniforms(key, step)), decoding).tokens[0]))
        routes.append(writer)
        if tokens[-1] in pair.base.ends:
            break
    return tuple(tokens), tuple(routes)


def essence(traces):
    return [(trace.problem_id, trace.sample_index, trace.tokens, trace.routes, trace.stop) for trace in traces]


@pytest.mark.parametrize("intervention", [STEER, Takeover(), SecondChoice(), LikelyToken()])
@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_a_router_that_never_fires_leaves_the_base_to_itself(pair, intervention, decoding):
    decoding = replace(decoding, max_new_tokens=10)
    alone = sample(pair.base, FEW, 2, decoding, seed=SEED)
    assert written(pair, Hybrid(Never(), intervention), FEW, decoding, n_samples=2) == alone


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_a_takeover_of_every_token_is_the_tuned_model_itself(pair, decoding):
    decoding = replace(decoding, max_new_tokens=10)
    tuned = sample(pair.tuned, FEW, 2, decoding, seed=SEED)
    taken = written(pair, Hybrid(Always(), Takeover()), FEW, decoding, n_samples=2)
    alone = [
        replace(trace, routes=(0,) * len(trace.tokens), content_bits=(0.0,) * len(trace.tokens)) for trace in taken
    ]
    assert alone == tuned
    assert {route for trace in taken for route in trace.routes} == {2}
    assert [trace.tokens for trace in taken] != [
        trace.tokens for trace in sample(pair.base, FEW, 2, decoding, seed=SEED)
    ]


@pytest.mark.parametrize(
    ("router", "intervention"),
    [
        (Disagreement(), STEER),
        (Disagreement(), Takeover()),
        (Disagreement(), LikelyToken(3)),
        (Reranked(3), Takeover()),
        (Reranked(3), SecondChoice()),
    ],
)
def test_a_hybrid_that_compares_the_models_equals_its_definition_token_for_token(pair, router, intervention):
    hybrid = Hybrid(router, intervention)
    traces = written(pair, hybrid, PROBLEMS, SHORT)
    for problem, trace in zip(PROBLEMS, traces, strict=True):
        assert (trace.tokens, trace.routes) == by_definition(pair, hybrid, problem, SHORT)
    # The test means something only where some tokens are routed and some are not.
    assert {route for trace in traces for route in trace.routes} == {0, 2 if intervention == Takeover() else 1}


@pytest.mark.parametrize(
    "hybrid",
    [
        Hybrid(AtRandom(0.4), SEVERAL),
        Hybrid(AtRandom(0.4), Takeover()),
        Hybrid(AtSteps((0, 2, 3)), SEVERAL),
        Hybrid(Always(), SEVERAL),
        Hybrid(Reranked(2), Takeover()),
        Hybrid(AtRandom(0.4), SecondChoice()),
        Hybrid(AtRandom(0.4), LikelyToken(4)),
    ],
)
def test_sampled_hybrids_equal_their_definition_token_for_token(llamas, hybrid):
    traces = written(llamas, hybrid, FEW, SAMPLED, n_samples=2)
    for index, trace in enumerate(traces):
        wanted = by_definition(llamas, hybrid, FEW[index // 2], SAMPLED, sample_index=index % 2)
        assert (trace.tokens, trace.routes) == wanted
    assert len({trace.tokens for trace in traces}) > len(FEW)
    assert len({int(child_seed(SEED, trace.problem_id, trace.sample_index) % 3) for trace in traces}) == 3


@pytest.mark.parametrize(
    "hybrid",
    [
        Hybrid(AtRandom(0.4), SEVERAL),
        Hybrid(AtRandom(0.4), Takeover()),
        Hybrid(Disagreement(), SEVERAL),
        Hybrid(Disagreement(), Takeover()),
        Hybrid(AtSteps((0, 5)), SEVERAL),
        Hybrid(Reranked(3), Takeover()),
        Hybrid(Disagreement(), SecondChoice()),
        Hybrid(AtRandom(0.4), LikelyToken()),
    ],
)
def test_completions_do_not_depend_on_the_batch_size_or_the_order_of_problems(llamas, hybrid):
    reference = written(llamas, hybrid, FEW, n_samples=3, batch_size=18)
    for batch_size in (1, 7, 64):
        again = written(llamas, hybrid, FEW, n_samples=3, batch_size=batch_size)
        assert essence(again) == essence(reference)
    backward = written(llamas, hybrid, FEW[::-1], n_samples=3, batch_size=7)
    assert sorted(essence(backward)) == sorted(essence(reference))


def test_rows_that_end_early_do_not_disturb_the_others(llamas):
    # Some frequent characters end a text, so that rows leave the batch at many different steps.
    free = written(llamas, Hybrid(AtRandom(0.5), SEVERAL), FEW, n_samples=4)
    stop = tuple({trace.text[5] for trace in free if len(trace.text) > 5 and trace.text[5].isascii()})
    assert stop
    decoding = replace(SAMPLED, stop=stop)
    for hybrid in (Hybrid(AtRandom(0.5), SEVERAL), Hybrid(Disagreement(), Takeover())):
        together = written(llamas, hybrid, FEW, decoding, n_samples=4)
        assert len({len(trace.tokens) for trace in together}) > 3
        assert essence(together) == essence(written(llamas, hybrid, FEW, decoding, n_samples=4, batch_size=1))


def test_a_steered_position_never_reaches_a_later_token(pair):
    """After a steered first token, the log-probabilities are the base's own on the same text."""
    traces = written(pair, Hybrid(AtSteps((0,)), STEER), FEW)
    plain = sample(pair.base, FEW, 1, SAMPLED, seed=SEED)
    assert [trace.tokens[0] for trace in traces] != [trace.tokens[0] for trace in plain]
    for problem, trace in zip(FEW, traces, strict=True):
        text = [*pair.base.tokenizer(problem.prompt).input_ids, *trace.tokens]
        with torch.no_grad():
            logits = pair.base.network(torch.tensor([text])).logits[0, -len(trace.tokens) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(trace.tokens)[:, None])[:, 0]
        came = torch.tensor(trace.logprobs)
        torch.testing.assert_close(came[1:], wanted[1:], atol=1e-4, rtol=1e-4)
        assert trace.routes == (1, *[0] * (len(trace.tokens) - 1))
        steered = last_logits(pair.base, text[: -len(trace.tokens)], STEER.table.edits[0]).log_softmax(-1)
        assert trace.logprobs[0] == pytest.approx(float(steered[0, trace.tokens[0]]), abs=1e-4)


def test_a_gate_on_the_edit_and_a_schedule_of_the_router_write_the_same(llamas):
    steps = (0, 2, 3, 7)
    gated = written(llamas, Hybrid(Always(), Steer(Drawn((Add(vector(0), where=WhileWriting(steps)),)))))
    scheduled = written(llamas, Hybrid(AtSteps(steps), STEER))
    assert [trace.tokens for trace in gated] == [trace.tokens for trace in scheduled]
    assert [trace.tokens for trace in gated] != [trace.tokens for trace in written(llamas, Hybrid(Never(), STEER))]


@torch.no_grad()
def test_a_hybrid_steers_by_edits_of_any_kind(llamas):
    base, router = llamas.base, AtRandom(0.5)
    edits = (Ablate(vector(0)), Rotate(vector(1), vector(2), 2.0, where=WhileWriting((0, 1, 4))))
    for trace in written(llamas, Hybrid(router, Steer(Drawn(edits))), FEW, SHORT):
        key = child_seed(SEED, trace.problem_id, trace.sample_index)
        edit = edits[key % 2]
        prompt = next(problem.prompt for problem in FEW if problem.id == trace.problem_id)
        text = list(base.tokenizer(prompt).input_ids)
        for step, (token, route_taken) in enumerate(zip(trace.tokens, trace.routes, strict=True)):
            tokens = torch.tensor([text])
            steered = bool(route_taken) and not (isinstance(edit, Rotate) and step not in (0, 1, 4))
            here = replace(edit, where=AtPositions((len(text) - 1,) if steered else ()))
            with apply(base, here):
                logits = base.network(tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
            assert token == int(logits[0, -1].argmax())
            text.append(token)


def test_the_recorded_log_probability_is_the_writers_own(llamas):
    (trace,) = written(llamas, Hybrid(AtRandom(0.5), Takeover()), PROBLEMS[2:3])
    text = list(llamas.base.tokenizer(PROBLEMS[2].prompt).input_ids)
    assert set(trace.routes) == {0, 2}
    for token, logprob, writer in zip(trace.tokens, trace.logprobs, trace.routes, strict=True):
        model = llamas.tuned if writer == 2 else llamas.base
        assert logprob == pytest.approx(float(last_logits(model, text).log_softmax(-1)[0, token]), abs=1e-4)
        text.append(token)


def test_a_random_hybrid_routes_at_its_rate(llamas):
    traces = written(llamas, Hybrid(AtRandom(0.25), Takeover()), n_samples=20)
    routed = np.array([route == 2 for trace in traces for route in trace.routes])
    assert len(routed) > 4000
    assert abs(routed.mean() - 0.25) < 4 * (0.25 * 0.75 / len(routed)) ** 0.5


def test_each_row_keeps_to_one_of_several_vectors_and_all_are_used():
    keys = [child_seed(SEED, problem.id, index) % 3 for problem in PROBLEMS for index in range(3)]
    assert min(keys.count(edit) for edit in range(3)) >= 10


@pytest.mark.parametrize(
    ("hybrid", "runs"),
    [
        (Hybrid(Never(), STEER), False),
        (Hybrid(Always(), STEER), False),
        (Hybrid(AtSteps((0,)), STEER), False),
        (Hybrid(AtRandom(0.5), STEER), False),
        (Hybrid(Disagreement(), STEER), True),
        (Hybrid(AtRandom(0.5), Takeover()), True),
        (Hybrid(Never(), Takeover()), False),
        (Hybrid(Reranked(), STEER), True),
        (Hybrid(Reranked(), SecondChoice()), True),
        (Hybrid(AtRandom(0.5), SecondChoice()), False),
        (Hybrid(Always(), LikelyToken()), False),
    ],
)
def test_the_tuned_model_runs_only_where_the_hybrid_asks_it(llamas, hybrid, runs):
    n_passes = []
    handle = llamas.tuned.network.register_forward_hook(lambda *_: n_passes.append(0))
    try:
        written(llamas, hybrid, FEW[:2], SHORT)
    finally:
        handle.remove()
    assert bool(n_passes) == runs == hybrid.needs_tuned


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_reranking_over_the_whole_vocabulary_is_disagreement_and_over_one_token_is_nothing(llamas, decoding):
    decoding = replace(decoding, max_new_tokens=10)
    every, disagreeing = (
        essence(written(llamas, Hybrid(router, Takeover()), FEW, decoding, n_samples=2))
        for router in (Reranked(llamas.base.anatomy.d_vocab), Disagreement())
    )
    assert every == disagreeing
    none = essence(written(llamas, Hybrid(Reranked(1), Takeover()), FEW, decoding, n_samples=2))
    assert none == essence(sample(llamas.base, FEW, 2, decoding, seed=SEED))
    some = essence(written(llamas, Hybrid(Reranked(2), Takeover()), FEW, decoding, n_samples=2))
    assert none != some != every


def test_greedy_takeover_of_every_disagreement_writes_the_tuned_models_text(pair):
    decoding = replace(GREEDY, max_new_tokens=10)
    taken = written(pair, Hybrid(Disagreement(), Takeover()), FEW, decoding)
    tuned = sample(pair.tuned, FEW, 1, decoding, seed=SEED)
    assert [trace.text for trace in taken] == [trace.text for trace in tuned]
    assert {route for trace in taken for route in trace.routes} == {0, 2}


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_a_second_choice_is_the_bases_token_of_rank_two_however_it_is_decoded(pair, decoding):
    for problem, trace in zip(FEW, written(pair, Hybrid(AtSteps((0, 3)), SecondChoice()), FEW, decoding), strict=True):
        text = list(pair.base.tokenizer(problem.prompt).input_ids)
        for step, token in enumerate(trace.tokens[:5]):
            logits = last_logits(pair.base, text)
            if step in (0, 3):
                assert int((logits > logits[0, token]).sum()) == 1
                assert trace.logprobs[step] == 0, "it was certain"
            text.append(token)
        assert trace.routes[:4] == (1, 0, 0, 1)[: len(trace.routes)]


def test_a_likely_token_is_one_of_the_first_and_each_about_equally_often(llamas):
    problem, top, n = PROBLEMS[1], 4, 2000
    traces = written(llamas, Hybrid(AtSteps((0,)), LikelyToken(top)), [problem], replace(GREEDY, max_new_tokens=1),
                     n_samples=n)  # fmt: skip
    first = ranked(last_logits(llamas.base, llamas.base.tokenizer(problem.prompt).input_ids))[:top]
    counts = [sum(trace.tokens == (token,) for trace in traces) for token in first]
    assert sum(counts) == n
    assert max(abs(count - n / top) for count in counts) < 4 * (n / top * (1 - 1 / top)) ** 0.5


def test_a_likely_token_hangs_on_its_key_and_step_alone(llamas):
    one = Hybrid(Always(), LikelyToken(4))
    greedy, sampled = (
        written(llamas, one, FEW, replace(decoding, max_new_tokens=10), n_samples=3) for decoding in (GREEDY, SAMPLED)
    )
    assert essence(greedy) == essence(sampled), "how tokens are decoded does not matter"
    places = []
    for trace in greedy:
        text = list(llamas.base.tokenizer(next(p.prompt for p in FEW if p.id == trace.problem_id)).input_ids)
        for token in trace.tokens:
            places.append(ranked(last_logits(llamas.base, text)).index(token))
            text.append(token)
    assert set(places) == {0, 1, 2, 3}
    assert written(llamas, Hybrid(Always(), LikelyToken(1)), FEW, SHORT)[0].tokens == (
        sample(llamas.base, FEW[:1], 1, SHORT, seed=SEED)[0].tokens
    )


def test_more_likely_tokens_than_there_are_are_all_of_them(llamas):
    decoding = replace(SAMPLED, max_new_tokens=3)
    whole, beyond = (
        essence(written(llamas, Hybrid(Always(), LikelyToken(top)), FEW, decoding)) for top in (258, 10_000)
    )
    assert whole == beyond


def test_draws_of_likely_tokens_are_unrelated_to_those_that_route_and_choose():
    keys = np.array([child_seed(0, "problem", index) for index in range(400)], dtype=np.uint64)
    ours = np.concatenate([uniforms(keys ^ CHOICE_KEY, step) for step in range(50)])
    router = np.uint64(0xA5A5A5A5A5A5A5A5)
    for other in (keys, keys ^ router):
        theirs = np.concatenate([uniforms(other, step) for step in range(50)])
        assert abs(np.corrcoef(ours, theirs)[0, 1]) < 4 / ours.size**0.5


def test_insisting_puts_all_probability_on_the_given_tokens():
    logits = torch.arange(12.0).reshape(3, 4)
    changed = insisting(logits, torch.tensor([1, 3, 3]))
    assert changed.softmax(-1).tolist() == [[0, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert torch.equal(logits, torch.arange(12.0).reshape(3, 4)), "the logits that came are left as they were"


def test_models_are_left_without_hooks(llamas):
    written(llamas, Hybrid(AtRandom(0.5), SEVERAL), FEW)
    for model in (llamas.base, llamas.tuned):
        assert all(not module._forward_hooks for module in model.network.modules())


def test_steering_with_no_vector_is_refused():
    with pytest.raises(VectorError, match="given no vector: want at least one"):
        Steer(Drawn(()))
