"""A router or an intervention of the user's own: one class with one method, which a hybrid runs as any other."""

from dataclasses import dataclass, is_dataclass, replace

import pytest
import torch

from lab.sampling.trace import GREEDY
from probes.capture.site import Site
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, Intervention, Moment, Reads, Routed, Router, Written, identity, insisting
from steering.hybrid.interventions import INTERVENTIONS, Drawn, PerCategory, SecondChoice, Steer, Takeover
from steering.hybrid.routers import ROUTERS, Always, AtSteps, Never

from .by_hand import FEW, SAMPLED, last_stream, pair_of, prompt_of, taxonomy_of, vector, written

SHORT = replace(GREEDY, max_new_tokens=6)


@pytest.fixture(scope="module")
def pair():
    return pair_of("llama")


@dataclass(frozen=True, slots=True)
class EveryOther(Router):
    """Needs nothing but `route`."""

    def route(self, now: Moment):
        return torch.full((len(now.keys),), now.step % 2 == 1)


@dataclass(frozen=True, slots=True)
class LongerStream(Router):
    """The tokens at which the tuned model's stream is longer than the base's, and which of the two in four sizes."""

    site: Site

    @property
    def reads(self) -> Reads:
        return Reads(base={self.site: 1}, tuned={self.site: 1})

    def _lengths(self, now: Moment):
        return now.base.streams[self.site].norm(dim=1), now.asked.streams[self.site].norm(dim=1)

    def route(self, now: Moment):
        ours, theirs = self._lengths(now)
        return theirs > ours

    def category(self, now: Moment, rows):
        ours, theirs = self._lengths(now)
        return (theirs[rows] / ours[rows]).long().clamp(max=3)


@dataclass(frozen=True, slots=True)
class Least(Intervention):
    """The base's least likely token, for certain."""

    def write(self, here: Routed) -> Written:
        return Written(insisting(here.logits, here.logits.argmin(dim=1)), "steered")


@dataclass(frozen=True, slots=True)
class Mixed(Intervention):
    """A mixture of both models' distributions, which costs a bit."""

    share: float

    @property
    def reads(self) -> Reads:
        return Reads(tuned={})

    def write(self, here: Routed) -> Written:
        both = (1 - self.share) * here.logits.softmax(dim=1) + self.share * here.tuned_logits.softmax(dim=1)
        return Written(both.log(), "steered", torch.ones(len(here.rows)))


def test_a_router_with_nothing_but_its_decision_routes_a_hybrid(pair):
    steer = Steer(Drawn((Add(vector(0)),)))
    own, known = (
        written(pair, Hybrid(router, steer), FEW, SAMPLED)
        for router in (EveryOther(), AtSteps(tuple(range(1, SAMPLED.max_new_tokens, 2))))
    )
    assert own == known
    assert not Hybrid(EveryOther(), steer).needs_tuned
    assert Hybrid(EveryOther(), Takeover()).needs_tuned


def test_a_router_that_reads_both_streams_gets_them_and_its_categories_are_recorded(pair):
    hybrid = Hybrid(LongerStream(Site(0)), SecondChoice())
    assert hybrid.needs_tuned
    for trace in written(pair, hybrid, FEW, SHORT):
        text = prompt_of(pair.base, trace)
        for token, route, category in zip(trace.tokens, trace.routes, trace.categories, strict=True):
            ours, theirs = (float(last_stream(model, text, Site(0)).norm()) for model in (pair.base, pair.tuned))
            assert bool(route) == (theirs > ours)
            assert category == (min(int(theirs / ours), 3) if route else -1)
            text.append(token)


def test_an_intervention_with_nothing_but_what_it_writes_runs_in_a_hybrid(pair):
    least = written(pair, Hybrid(AtSteps((0,)), Least()), FEW, SHORT)
    for trace in least:
        text = torch.tensor([prompt_of(pair.base, trace)])
        assert trace.tokens[0] == int(pair.base.network(text).logits[0, -1].argmin())
        assert trace.routes == (1, *[0] * (len(trace.tokens) - 1))
        assert set(trace.content_bits) == {0}
        assert set(trace.categories) == {-1}


def test_an_intervention_that_asks_the_tuned_model_gets_its_logits_and_pays_what_it_says(pair):
    mixtures = [written(pair, Hybrid(Always(), Mixed(share)), FEW, SAMPLED) for share in (0.0, 1.0)]
    ends = [written(pair, Hybrid(router, Takeover()), FEW, SAMPLED) for router in (Never(), Always())]
    assert [[trace.tokens for trace in traces] for traces in mixtures] == [
        [trace.tokens for trace in traces] for traces in ends
    ]
    assert {bits for trace in mixtures[0] for bits in trace.content_bits} == {1}
    assert Hybrid(Always(), Mixed(0.5)).needs_tuned
    assert not Hybrid(Never(), Mixed(0.5)).needs_tuned, "what is never asked need not run"


def test_own_kinds_have_an_identity_of_their_values(pair):
    hybrids = [
        Hybrid(EveryOther(), Least()),
        Hybrid(LongerStream(Site(0)), Least()),
        Hybrid(LongerStream(Site(1)), Least()),
        *(Hybrid(EveryOther(), Mixed(share)) for share in (0.25, 0.5)),
    ]
    assert len({identity(hybrid) for hybrid in hybrids}) == len(hybrids)
    assert identity(Hybrid(EveryOther(), Mixed(0.5))) == identity(hybrids[-1])


def test_a_kind_without_its_one_method_cannot_be_made():
    class Undecided(Router):
        pass

    class Idle(Intervention):
        pass

    for kind, method in ((Undecided, "route"), (Idle, "write")):
        with pytest.raises(TypeError, match=f"abstract method '?{method}"):
            kind()


@pytest.mark.parametrize(("table", "protocol"), [(ROUTERS, Router), (INTERVENTIONS, Intervention)])
def test_every_listed_kind_is_a_frozen_value_of_its_protocol(table, protocol):
    assert len(set(table.values())) == len(table)
    for kind in table.values():
        assert protocol in kind.mro()
        assert is_dataclass(kind)
        assert kind.__dataclass_params__.frozen


def test_what_both_parts_read_is_read_as_far_back_as_either_asks(pair):
    near, far = Reads(base={Site(0): 1}, tuned={Site(1): 1}), Reads(base={Site(0): None, Site(1): 3})
    assert near | far == far | near == Reads(base={Site(0): None, Site(1): 3}, tuned={Site(1): 1})
    assert Reads() | Reads() == Reads()
    assert not (far | Reads()).asks_tuned
    assert (far | Reads(tuned={})).asks_tuned
    taxonomy = taxonomy_of(pair.tuned)
    edits = tuple(Add(vector(seed)) for seed in range(3))
    ours, theirs = (Steer(PerCategory(taxonomy, reader, edits)) for reader in ("base", "tuned"))
    assert ours.reads == Reads(base={Site(0): 1, Site(1): 1})
    assert theirs.reads == Reads(base={Site(0): 1}, tuned={Site(1): 1})
    assert [part.categories_of for part in (ours, theirs, Takeover())] == ["base", "tuned", None]
