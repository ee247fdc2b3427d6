"""Bits that cross from the tuned model: hand arithmetic on small tables, and exact laws of whole hybrids."""

from math import log, log2

import pytest

from elicitation.study.tables import problem_bits
from lab.models.tiny import tiny_model
from lab.sampling.trace import GREEDY, TRACES, trace_table
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid
from steering.hybrid.interventions import (
    Drawn,
    FirstChooser,
    LikelyToken,
    PerCategory,
    RandomCategory,
    SecondChoice,
    Steer,
    Sweep,
    Takeover,
    TunedChooser,
)
from steering.hybrid.routers import (
    Always,
    AtRandom,
    Disagreement,
    EntropyAbove,
    InCategories,
    Never,
    Reranked,
    Scheduled,
)
from tests.steering.hybrid.by_hand import FEW, SAMPLED, logits_under, pair_of, prompt_of, taxonomy_of, vector, written

EDITS = tuple(Add(vector(seed)) for seed in range(3))
STEER = Steer(Drawn(EDITS))
TAXONOMY = taxonomy_of(tiny_model())
TUNED_TABLE = PerCategory(TAXONOMY, "tuned", EDITS)


@pytest.fixture(scope="module")
def pair():
    return pair_of("llama")


def traces(*rows):
    """(problem, sample, routes, categories, content bits) of each completion."""
    return TRACES.frame(
        [
            {
                "arm": "a",
                "problem_id": problem,
                "sample_index": sample,
                "tokens": [0] * len(routes),
                "logprobs": [0.0] * len(routes),
                "routes": routes,
                "categories": categories,
                "content_bits": content,
                "text": "",
                "stop": "eos",
            }
            for problem, sample, routes, categories, content in rows
        ]
    )


TWO = traces(
    ("p", 0, [1, 0, 1], [0, -1, 1], [0.5, 0.0, 0.0]),
    ("p", 1, [0], [-1], [0.0]),
    ("q", 0, [1, 1, 0, 0], [0, 0, -1, -1], [0.0, 2.0, 0.0, 0.0]),
)
GATE = [1.0, 1.0, 1.0]
"""Half of the eight tokens are routed: a bit for each token."""
FIRST, SECOND = log2(4 / 3), 2.0
"""Of the four routed tokens three are of category 0 and one of category 1."""


@pytest.mark.parametrize(
    ("hybrid", "wanted"),
    [
        (Hybrid(AtRandom(0.5), STEER), [0.5, 0.0, 2.0]),
        (Hybrid(Disagreement(), STEER), [3.5, 1.0, 6.0]),
        (Hybrid(Reranked(), SecondChoice()), [3.5, 1.0, 6.0]),
        (Hybrid(AtRandom(0.5), Steer(TUNED_TABLE)), [FIRST + SECOND + 0.5, 0.0, 2 * FIRST + 2.0]),
        (Hybrid(Disagreement(), Steer(TUNED_TABLE)), [FIRST + SECOND + 3.5, 1.0, 2 * FIRST + 6.0]),
        (
            Hybrid(InCategories(TAXONOMY, frozenset({0, 1})), Sweep(TUNED_TABLE, (1.0,), (1,), TunedChooser())),
            [FIRST + SECOND + 3.5, 1.0, 2 * FIRST + 6.0],
        ),
        (Hybrid(InCategories(TAXONOMY, frozenset({0, 1})), STEER), [3.5, 1.0, 6.0]),
    ],
)
def test_the_three_parts_by_hand(hybrid, wanted):
    came = problem_bits(TWO, hybrid)
    assert came.select("problem_id", "sample_index").rows() == [("p", 0), ("p", 1), ("q", 0)]
    assert came["bits"].to_list() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("n_routed", [1, 3, 7])
def test_a_gate_costs_the_entropy_of_its_rate_for_each_token(n_routed):
    n, rate = 10, n_routed / 10
    table = traces(*(("p", i, [int(i < n_routed)], [-1], [0.0]) for i in range(n)))
    entropy = -rate * log2(rate) - (1 - rate) * log2(1 - rate)
    assert problem_bits(table, Hybrid(Disagreement(), STEER))["bits"].sum() == pytest.approx(n * entropy)


@pytest.mark.parametrize("routes", [[0, 0], [1, 1]])
def test_a_gate_that_always_does_the_same_costs_nothing(routes):
    table = traces(("p", 0, routes, [-1 if route == 0 else 2 for route in routes], [0.0, 0.0]))
    assert problem_bits(table, Hybrid(Disagreement(), Steer(TUNED_TABLE)))["bits"].to_list() == [0.0]


@pytest.mark.parametrize(
    "hybrid",
    [
        Hybrid(Never(), Takeover()),
        Hybrid(Always(), STEER),
        Hybrid(AtRandom(0.5), Steer(Drawn(EDITS), "kept")),
        Hybrid(Scheduled((1.0, 0.3)), LikelyToken()),
        Hybrid(EntropyAbove(1.0), SecondChoice()),
        Hybrid(AtRandom(0.5), Steer(RandomCategory(EDITS))),
        Hybrid(AtRandom(0.5), Sweep(Drawn(EDITS), (1.0, 2.0), (1, None), FirstChooser())),
    ],
)
def test_a_hybrid_that_never_asks_the_tuned_model_costs_exactly_nothing(pair, hybrid):
    assert not hybrid.needs_tuned
    table = trace_table("a", written(pair, hybrid, FEW, SAMPLED))
    assert problem_bits(table, hybrid)["bits"].to_list() == [0.0] * len(FEW)


@pytest.mark.parametrize("decoding", [SAMPLED, GREEDY])
def test_full_takeover_costs_the_cross_entropy_of_its_tokens_under_the_base(pair, decoding):
    hybrid = Hybrid(Always(), Takeover())
    done = written(pair, hybrid, FEW, decoding)
    came = problem_bits(trace_table("a", done), hybrid)["bits"].to_list()
    for trace, bits in zip(done, came, strict=True):
        text, wanted = prompt_of(pair.base, trace), 0.0
        for token in trace.tokens:
            wanted -= float(logits_under(pair.base, text).double().log_softmax(-1)[token]) / log(2)
            text.append(token)
        assert bits / len(trace.tokens) == pytest.approx(wanted / len(trace.tokens), abs=1e-4)


def test_only_tokens_that_were_taken_over_are_paid_for(pair):
    hybrid = Hybrid(Disagreement(), Takeover())
    for trace in written(pair, hybrid, FEW, SAMPLED):
        assert [bits > 0 for bits in trace.content_bits] == [route == 2 for route in trace.routes]
