"""Hybrids that read a stream: against full passes of one row, in one full pass a token, and of the right model only."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from lab.records.errors import ModelError, SiteError, VectorError
from lab.sampling.trace import GREEDY
from probes.capture.site import Site
from steering.edit import Add
from steering.hybrid.hybrid import Hybrid, open_hybrid
from steering.hybrid.interventions import Drawn, FirstChooser, PerCategory, RandomCategory, Steer, Sweep, Takeover
from steering.hybrid.routers import Always, AtRandom, BaseProbe, Disagreement, InCategories, LinearProbe, Never

from .by_hand import FEW, SAMPLED, last_stream, logits_under, pair_of, prompt_of, taxonomy_of, vector, written

EDITS = tuple(Add(vector(seed)) for seed in range(3))
SHORT = replace(GREEDY, max_new_tokens=8)


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def pair(request):
    return pair_of(request.param)


@pytest.fixture(scope="module")
def llamas():
    return pair_of("llama")


@pytest.mark.parametrize("reader", ["base", "tuned"])
def test_a_row_gets_the_edit_of_the_category_of_the_stream_that_is_read(pair, reader):
    model = pair.tuned if reader == "tuned" else pair.base
    taxonomy = taxonomy_of(model, site=Site(1, "resid_pre"))
    hybrid = Hybrid(AtRandom(0.6), Steer(PerCategory(taxonomy, reader, EDITS)))
    assert hybrid.needs_tuned == (reader == "tuned")
    traces = written(pair, hybrid, FEW, SHORT, n_samples=2)
    for trace in traces:
        text = prompt_of(pair.base, trace)
        for token, route, category in zip(trace.tokens, trace.routes, trace.categories, strict=True):
            found = int(taxonomy.category(last_stream(model, text, taxonomy.site))[0])
            assert category == (found if route else -1)
            assert token == int(logits_under(pair.base, text, EDITS[found] if route else None).argmax())
            text.append(token)
    assert {category for trace in traces for category in trace.categories} == {-1, 0, 1, 2}


def test_a_router_by_category_asks_the_tuned_models_stream(pair):
    taxonomy, wanted = taxonomy_of(pair.tuned), frozenset({0, 2})
    hybrid = Hybrid(InCategories(taxonomy, wanted), Takeover())
    assert hybrid.needs_tuned
    traces = written(pair, hybrid, FEW, SAMPLED)
    for trace in traces:
        text = prompt_of(pair.base, trace)
        for token, route, category in zip(trace.tokens, trace.routes, trace.categories, strict=True):
            found = int(taxonomy.category(last_stream(pair.tuned, text, taxonomy.site))[0])
            assert (route == 2) == (found in wanted)
            assert category == (found if route else -1)
            text.append(token)
    assert {route for trace in traces for route in trace.routes} == {0, 2}


def test_a_router_by_probe_asks_the_bases_stream(pair):
    weight = torch.randn(32, generator=torch.Generator().manual_seed(1))
    probe = LinearProbe(Site(0), weight, 0.25)
    hybrid = Hybrid(BaseProbe(probe), Steer(Drawn(EDITS[:1]), "kept"))
    assert not hybrid.needs_tuned
    traces = written(pair, hybrid, FEW, SAMPLED)
    for trace in traces:
        text = prompt_of(pair.base, trace)
        for token, route in zip(trace.tokens, trace.routes, strict=True):
            # The probe reads below the edit, so that what is kept of it does not matter here.
            assert bool(route) == (float(last_stream(pair.base, text, Site(0))[0] @ weight) + 0.25 > 0)
            text.append(token)
    assert {route for trace in traces for route in trace.routes} == {0, 1}


@pytest.mark.slow
def test_texts_do_not_depend_on_the_batch_whatever_is_read(llamas):
    taxonomy = taxonomy_of(llamas.tuned)
    stops = replace(SAMPLED, stop=tuple("aeio "))
    for intervention in (
        Steer(PerCategory(taxonomy, "tuned", EDITS), "kept"),
        Steer(RandomCategory(EDITS)),
    ):
        hybrid = Hybrid(InCategories(taxonomy, frozenset({0, 1})), intervention)
        whole = written(llamas, hybrid, FEW, stops, n_samples=2)
        alone = written(llamas, hybrid, FEW, stops, n_samples=2, batch_size=1)
        assert [(trace.tokens, trace.routes, trace.categories) for trace in whole] == [
            (trace.tokens, trace.routes, trace.categories) for trace in alone
        ]


def test_each_model_makes_one_full_pass_a_token_and_an_edit_runs_only_what_lies_above_it(llamas):
    """A block's first part runs once in every pass that the block takes part in."""
    passes = Counter()
    handles = [
        next(block.children()).register_forward_hook(lambda *_, name=f"{side} {layer}": passes.update([name]))
        for side, model in (("base", llamas.base), ("tuned", llamas.tuned))
        for layer, block in enumerate(model.anatomy.blocks)
    ]
    taxonomy = taxonomy_of(llamas.tuned)
    n, decoding = 7, replace(GREEDY, max_new_tokens=7)
    try:
        for intervention in (
            Steer(PerCategory(taxonomy, "tuned", EDITS)),
            Steer(PerCategory(taxonomy, "tuned", EDITS), "kept"),
            Sweep(PerCategory(taxonomy, "tuned", EDITS), (1.0,), (1, 2), FirstChooser()),
        ):
            passes.clear()
            written(llamas, Hybrid(Always(), intervention), FEW[:1], decoding)
            # Sweeps of two candidates in a batch of one row run one after the other.
            again = 2 * n if isinstance(intervention, Sweep) else n
            assert passes == {"base 0": n, "base 1": n + again, "tuned 0": n, "tuned 1": n}
    finally:
        for handle in handles:
            handle.remove()
    modules = [module for model in (llamas.base, llamas.tuned) for module in model.network.modules()]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
    assert not any("forward" in vars(module) for module in modules)


def test_what_was_fitted_on_another_model_is_refused_before_a_token_is_written(llamas):
    base, tuned = taxonomy_of(llamas.base), taxonomy_of(llamas.tuned)
    wide = LinearProbe(Site(0), torch.zeros(33), 0.0)
    for hybrid, error, complaint in (
        (Hybrid(InCategories(base, frozenset({0})), Takeover()), ModelError, "want that very model"),
        (Hybrid(Always(), Steer(PerCategory(tuned, "base", EDITS))), ModelError, "want that very model"),
        (Hybrid(Always(), Steer(PerCategory(base, "tuned", EDITS))), ModelError, "want that very model"),
        (Hybrid(BaseProbe(wide), Takeover()), ModelError, "a linear probe of width 33 does not fit"),
        (Hybrid(BaseProbe(LinearProbe(Site(5), torch.zeros(32), 0.0)), Takeover()), SiteError, "out of range"),
        (Hybrid(Never(), Steer(Drawn((Add(vector(0, Site(9))),)))), SiteError, "out of range"),
    ):
        with pytest.raises(error, match=complaint):
            open_hybrid(llamas, hybrid)
    with pytest.raises(ModelError, match="NaN or infinity"):
        LinearProbe(Site(0), torch.full((32,), torch.nan), 0.0)
    with pytest.raises(VectorError, match="2 edits for a taxonomy of 3 categories"):
        PerCategory(base, "base", EDITS[:2])


def test_a_hybrid_that_compares_the_models_reads_no_stream(llamas):
    trace = written(llamas, Hybrid(Disagreement(), Takeover()), FEW[:1], SHORT)[0]
    assert set(trace.categories) == {-1}
