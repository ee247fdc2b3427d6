"""Hybrids with caches and batches against `reference`, which has neither, token for token in single precision."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest
import torch

from lab.models.load import Model, assemble, load
from lab.models.pair import ModelPair
from lab.models.source import BuiltInModel
from lab.models.tiny import Family, byte_tokenizer, tiny_model
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding, Trace
from lab.tasks.problem import Problem
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from probes.taxonomy.taxonomy import Taxonomy
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.hybrid.interventions import (
    Drawn,
    FirstChooser,
    LikelyToken,
    PerCategory,
    RandomCategory,
    RandomChooser,
    SecondChoice,
    Steer,
    Sweep,
    Takeover,
    TunedChooser,
)
from steering.hybrid.routers import (
    Always,
    AtRandom,
    AtSteps,
    BaseProbe,
    Disagreement,
    EntropyAbove,
    InCategories,
    LinearProbe,
    Never,
    Reranked,
    Scheduled,
)
from steering.vector import SteeringVector
from tests.steering.hybrid.reference import Written, read, write

SEED = 3
TIE = 1e-4
"""Below this margin rounding may decide otherwise."""
WORDS = ("a", "what is 2+3?", "chains of unequal length are the point of this", "x" * 31, "no")
PROBLEMS = [
    Problem(id=f"p{index}", prompt=f"{WORDS[index % 5]}{index}", answer="", family="all", source="test")
    for index in range(10)
]
GREEDILY, SAMPLED = replace(GREEDY, max_new_tokens=8), Decoding(max_new_tokens=8)
LONGER_GREEDILY, LONGER_SAMPLED = replace(GREEDY, max_new_tokens=16), Decoding(max_new_tokens=16)


def noisy_pair(family: Family) -> ModelPair:
    """A base, and the same network with a little noise on its weights, so that they disagree now and then."""
    base = tiny_model(family, seed=5)
    network, generator = copy.deepcopy(base.network), torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.1 * parameter.std() * torch.randn(parameter.shape, generator=generator)
    return ModelPair(base=base, tuned=assemble(network, byte_tokenizer(), name="tuned"))


@pytest.fixture(scope="module")
def tiny() -> ModelPair:
    return noisy_pair("llama")


@pytest.fixture(scope="module")
def organisms() -> ModelPair:
    base, tuned = (
        load(BuiltInModel(name=name), device=torch.device("cpu"), dtype=torch.float32)
        for name in ("zero-base", "zero-rl")
    )
    return ModelPair(base=base, tuned=tuned)


def vector(seed: int, *sites: Site, width: int, norm: float) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    noise = {site: torch.randn(width, generator=generator) for site in sites}
    return SteeringVector({site: norm * row / row.norm() for site, row in noise.items()}, dict.fromkeys(noise, 1.0), "")


def edits_of(n_edits: int, *sites: Site, width: int, norm: float) -> tuple[Add, ...]:
    return tuple(Add(vector(seed, *sites, width=width, norm=norm), dose=1.0 + 0.1 * seed) for seed in range(n_edits))


def taxonomy_of(model: Model, site: Site, texts: Sequence[Sequence[int]]) -> Taxonomy:
    """A category around the stream at the end of each of `texts`, so that all of them occur."""
    streams = torch.stack([read(model, text, watched={site}).streams[site] for text in texts])
    mean = streams.mean(dim=0)
    centres = torch.nn.functional.normalize(streams - mean, dim=1)
    n = len(texts)
    return Taxonomy(
        site=site,
        mean=mean,
        W_enc=centres.T.contiguous(),
        b_enc=torch.zeros(n),
        W_dec=centres,
        b_dec=torch.zeros_like(mean),
        k=1,
        names=tuple(map(str, range(n))),
        model=model.name,
        model_digest=model.digest,
    )


def same(trace: Trace, written: Sequence[Written], step: int) -> bool:
    one = written[step]
    return (
        (trace.tokens[step], trace.routes[step], trace.categories[step]) == (one.token, one.route, one.category)
        and trace.logprobs[step] == pytest.approx(one.logprob, abs=1e-3)
        and trace.content_bits[step] == pytest.approx(one.content_bits, abs=1e-3)
    )


def compared(
    pair: ModelPair,
    hybrid: Hybrid,
    problems: Sequence[Problem],
    decoding: Decoding,
) -> tuple[list[Trace], int]:
    """The traces of the hybrid, which equal the reference, and how many of them part from it at a tie."""
    opened = open_hybrid(pair, hybrid)
    traces = sample(pair.base, problems, 1, decoding, seed=SEED, batch_size=64, open_rows=opened)
    n_ties = 0
    for problem, trace in zip(problems, traces, strict=True):
        written = write(pair, hybrid, problem, decoding, seed=SEED)
        both = min(len(written), len(trace.tokens))
        parted = next((step for step in range(both) if not same(trace, written, step)), None)
        if parted is None:
            assert len(written) == len(trace.tokens)
            continue
        came = (trace.tokens[parted], trace.routes[parted], trace.categories[parted], trace.content_bits[parted])
        assert written[parted].margin < TIE, f"{problem.id}, token {parted}: {came}, want {written[parted]}"
        n_ties += 1
    return traces, n_ties


class Parts(NamedTuple):
    """What the hybrids of a pair are made from."""

    drawn: tuple[Add, ...]
    """Of different sites and doses."""
    early: tuple[Add, ...]
    """At one site, one for each category."""
    ours: Taxonomy
    """Of the base."""
    theirs: Taxonomy
    """Of the tuned model."""
    late: Taxonomy
    """Of the tuned model, at another site."""
    probe: LinearProbe


@pytest.fixture(scope="module")
def parts(tiny) -> Parts:
    width = tiny.base.anatomy.d_model
    texts = [list(tiny.base.tokenizer(problem.prompt).input_ids) for problem in PROBLEMS]
    early = edits_of(4, Site(0), width=width, norm=5.0)
    direction = vector(7, Site(1), width=width, norm=1.0).directions[Site(1)]
    middle = torch.stack([read(tiny.base, text, watched={Site(1)}).streams[Site(1)] for text in texts]).mean(dim=0)
    return Parts(
        drawn=(*early[:2], *edits_of(2, Site(0), Site(1, "resid_pre"), Site(1), width=width, norm=4.0)),
        early=early,
        ours=taxonomy_of(tiny.base, Site(0), texts[:4]),
        theirs=taxonomy_of(tiny.tuned, Site(0), texts[:4]),
        late=taxonomy_of(tiny.tuned, Site(1, "resid_pre"), texts[:4]),
        probe=LinearProbe(Site(1), direction, -float(direction @ middle)),
    )


OFTEN, DOSES, WINDOWS = AtRandom(0.5), (0.5, 1.0, 2.0), (None, 1, 15)
HYBRIDS: dict[str, Callable[[Parts], Hybrid]] = {
    "never": lambda p: Hybrid(Never(), Steer(Drawn(p.drawn))),
    "always": lambda p: Hybrid(Always(), Steer(Drawn(p.drawn))),
    "always, kept": lambda p: Hybrid(Always(), Steer(Drawn(p.drawn), "kept")),
    "steps": lambda p: Hybrid(AtSteps((0, 2, 3)), Steer(Drawn(p.drawn))),
    "steps, kept": lambda p: Hybrid(AtSteps((0, 2, 3)), Steer(Drawn(p.drawn), "kept")),
    "random": lambda p: Hybrid(OFTEN, Steer(Drawn(p.drawn))),
    "random, kept": lambda p: Hybrid(OFTEN, Steer(Drawn(p.drawn), "kept")),
    "random, second choice": lambda p: Hybrid(OFTEN, SecondChoice()),
    "random, likely token": lambda p: Hybrid(OFTEN, LikelyToken(4)),
    "random, takeover": lambda p: Hybrid(OFTEN, Takeover()),
    "random, random categories": lambda p: Hybrid(OFTEN, Steer(RandomCategory(p.drawn))),
    "random, random categories, kept": lambda p: Hybrid(OFTEN, Steer(RandomCategory(p.drawn), "kept")),
    "random, base's categories": lambda p: Hybrid(OFTEN, Steer(PerCategory(p.ours, "base", p.drawn))),
    "random, base's categories, kept": lambda p: Hybrid(OFTEN, Steer(PerCategory(p.ours, "base", p.drawn), "kept")),
    "random, tuned categories": lambda p: Hybrid(OFTEN, Steer(PerCategory(p.theirs, "tuned", p.drawn))),
    "random, tuned categories, kept": lambda p: Hybrid(OFTEN, Steer(PerCategory(p.late, "tuned", p.drawn), "kept")),
    "random, first of a sweep": lambda p: Hybrid(OFTEN, Sweep(Drawn(p.drawn), (1.0, 2.0), (15, None), FirstChooser())),
    "random, some of a sweep": lambda p: Hybrid(OFTEN, Sweep(RandomCategory(p.drawn), DOSES, WINDOWS, RandomChooser())),
    "random, best of a sweep": lambda p: Hybrid(OFTEN, Sweep(Drawn(p.drawn), DOSES, WINDOWS, TunedChooser())),
    "scheduled": lambda p: Hybrid(Scheduled((1.0, 0.2, 0.6)), Steer(Drawn(p.drawn))),
    "scheduled, sweep": lambda p: Hybrid(
        Scheduled((0.0, 0.9, 0.3)), Sweep(PerCategory(p.ours, "base", p.early), DOSES, WINDOWS, FirstChooser())
    ),
    "entropy": lambda p: Hybrid(EntropyAbove(3.6), Steer(Drawn(p.drawn))),
    "entropy, kept": lambda p: Hybrid(EntropyAbove(3.6), Steer(Drawn(p.drawn), "kept")),
    "probe": lambda p: Hybrid(BaseProbe(p.probe), Steer(Drawn(p.drawn))),
    "probe, kept": lambda p: Hybrid(BaseProbe(p.probe), Steer(Drawn(p.drawn), "kept")),
    "disagreement": lambda p: Hybrid(Disagreement(), Steer(Drawn(p.drawn))),
    "disagreement, kept": lambda p: Hybrid(Disagreement(), Steer(Drawn(p.drawn), "kept")),
    "disagreement, takeover": lambda p: Hybrid(Disagreement(), Takeover()),
    "disagreement, some of a sweep": lambda p: Hybrid(
        Disagreement(), Sweep(PerCategory(p.ours, "base", p.early), DOSES, WINDOWS, RandomChooser())
    ),
    "disagreement, best of a sweep": lambda p: Hybrid(
        Disagreement(), Sweep(PerCategory(p.late, "tuned", p.early), DOSES, (None, 1, 15, 50), TunedChooser())
    ),
    "reranked, takeover": lambda p: Hybrid(Reranked(3), Takeover()),
    "categories": lambda p: Hybrid(InCategories(p.theirs, frozenset({0, 2})), Steer(Drawn(p.drawn))),
    "categories, takeover": lambda p: Hybrid(InCategories(p.late, frozenset({1, 2})), Takeover()),
    "categories, their vectors": lambda p: Hybrid(
        InCategories(p.theirs, frozenset({0, 1})), Steer(PerCategory(p.theirs, "tuned", p.drawn), "kept")
    ),
}


@pytest.mark.parametrize("decoding", [GREEDILY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", HYBRIDS)
def test_a_hybrid_equals_its_definition_token_for_token(tiny, parts, name, decoding):
    hybrid = HYBRIDS[name](parts)
    traces, _ = compared(tiny, hybrid, PROBLEMS[:4], decoding)
    routes = {route for trace in traces for route in trace.routes}
    match hybrid.router:
        case Never():
            assert routes == {0}
        case Always():
            assert routes == {1}
        case _:
            # Else the test would say nothing of the intervention, or nothing of what follows it.
            assert routes == {0, 2 if isinstance(hybrid.intervention, Takeover) else 1}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
@pytest.mark.parametrize("name", ["random, kept", "random, best of a sweep"])
def test_the_definition_holds_in_other_families(family, name, parts):
    compared(noisy_pair(family), HYBRIDS[name](parts), PROBLEMS[:4], GREEDILY)


@pytest.mark.parametrize("name", ["random, tuned categories, kept", "disagreement, best of a sweep"])
def test_rows_that_leave_the_batch_at_different_steps_still_equal_the_definition(tiny, parts, name):
    hybrid = HYBRIDS[name](parts)
    free = sample(tiny.base, PROBLEMS, 1, SAMPLED, seed=SEED, open_rows=open_hybrid(tiny, hybrid))
    ends = frozenset(trace.tokens[1 + index % 5] for index, trace in enumerate(free[:7]))
    sooner = replace(tiny, base=replace(tiny.base, ends=tiny.base.ends | ends))
    ended, _ = compared(sooner, hybrid, PROBLEMS, SAMPLED)
    assert len({len(trace.tokens) for trace in ended}) > 3


RIVAL_DOSES = tuple(n / 10 for n in range(1, 11))
RIVAL_WINDOWS = (None, 1, 15, 50, 100)
MOMENTS = ("<3+4?", "<6-0-4?T6", "<6-0-4?T6-0", "<6-0-4?T6-0=", "<6-0-4?T6-0=6", "<6-0-4?T6-0=6;")
"""Texts of the chain world, each at another place of a step; at each of them begins a category."""


@pytest.fixture(scope="module")
def per_moment(organisms) -> PerCategory:
    """Under each category four times what tuning added to the stream there: enough for the base to begin a chain."""
    site, texts = Site(1), [list(organisms.base.tokenizer(moment).input_ids) for moment in MOMENTS]
    edits = []
    for text in texts:
        base, tuned = (read(model, text, watched={site}).streams[site] for model in (organisms.base, organisms.tuned))
        edits.append(Add(SteeringVector({site: tuned - base}, {site: float(base.norm())}, "what tuning added"), 4.0))
    return PerCategory(taxonomy_of(organisms.tuned, Site(2), texts), "tuned", tuple(edits))


@pytest.fixture(scope="module")
def problems() -> tuple[Problem, ...]:
    return open_task(task_source("chain"), n_problems=200, seed=0).problems


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoding", "half"),
    [(LONGER_GREEDILY, slice(0, 100)), (LONGER_SAMPLED, slice(100, 200))],
    ids=["greedy", "sampled"],
)
def test_the_rivals_hybrid_equals_its_definition_on_two_hundred_problems(
    organisms, per_moment, problems, decoding, half
):
    """That of arXiv 2510.07364, first form: the tuned model says when, by which vector, and which of fifty tokens."""
    sweep = Sweep(per_moment, RIVAL_DOSES, RIVAL_WINDOWS, TunedChooser())
    traces, n_ties = compared(organisms, Hybrid(Disagreement(), sweep), problems[half], decoding)
    print(f"{n_ties} ties")
    # A tie is rare, so many of them would be a fault.
    assert n_ties <= 2
    assert {route for trace in traces for route in trace.routes} == {0, 1}
    assert sum(trace.text.startswith("T") for trace in traces) > 90
    assert max(bits for trace in traces for bits in trace.content_bits) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sweep", "kept", "takeover"])
def test_organisms_steered_amid_their_chains_equal_the_definition(organisms, per_moment, problems, name):
    hybrid, n_problems = {
        "sweep": (Hybrid(AtRandom(0.1), Sweep(per_moment, (0.5, 1.0, 2.0), RIVAL_WINDOWS, RandomChooser())), 16),
        "kept": (Hybrid(AtRandom(0.3), Steer(per_moment, "kept")), 24),
        "takeover": (Hybrid(InCategories(per_moment.taxonomy, frozenset({0, 3})), Takeover()), 24),
    }[name]
    traces, n_ties = compared(organisms, hybrid, problems[:n_problems], LONGER_SAMPLED)
    print(f"{n_ties} ties")
    assert n_ties <= 2
    assert len({category for trace in traces for category in trace.categories}) > 2
