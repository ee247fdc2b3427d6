"""A probe finds disagreements that the stream tells of, none that it does not, and says how well."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.seeds import numpy_generator
from probes.capture.site import Site
from steering.routing.category_vectors import Moments, moments, streams_before
from steering.routing.routing import fit_probe
from tests.steering.routing.conftest import planted

# The embedding of the token before, of which 32 dimensions tell every letter.
SITE = Site(0, "resid_pre")


@pytest.fixture(scope="module")
def when(model, written) -> Moments:
    return moments(model, written.traces, written.disagreements, written.problems)


def probe_of(model, when, seed=0):
    return fit_probe(model, SITE, when, seed=seed, n_boot=200)


def test_a_decision_behind_a_certain_letter_is_found_on_problems_not_fitted_on(model, when):
    quality = probe_of(model, when).quality
    assert quality.auroc.value > 0.99
    assert quality.caught_share > 0.9
    assert quality.opened_share == pytest.approx(quality.decided_share, abs=0.02)
    assert quality.n_problems == 20
    assert quality.n_tokens < len(when.texts)


def test_the_probe_opens_at_the_tokens_that_its_quality_counts(model, when):
    found = probe_of(model, when)
    opened = found.probe.opens(streams_before(model, SITE, when.rows, when.texts, when.positions)).numpy()
    assert opened[when.decided].mean() > 0.9
    assert opened[~when.decided].mean() < 0.05


def test_a_probe_of_labels_that_hang_on_nothing_is_no_better_than_chance(model, when):
    labels = numpy_generator(0, "labels").permutation(when.decided)
    quality = probe_of(model, replace(when, decided=labels)).quality
    assert quality.auroc.low < 0.5 < quality.auroc.high


def test_a_dimension_that_never_varies_does_no_harm(when):
    flat = tiny_model("llama", seed=5)
    flat.network.get_input_embeddings().weight[:, 3] = 1.5
    found = probe_of(flat, when)
    assert found.probe.weight[3] == 0
    assert found.quality.auroc.value > 0.99


def test_equal_seeds_give_equal_probes_and_others_split_the_problems_otherwise(model, when):
    first, again, other = (probe_of(model, when, seed) for seed in (1, 1, 2))
    assert torch.equal(first.probe.weight, again.probe.weight)
    assert first.probe.bias == again.probe.bias
    assert first.quality == again.quality
    assert not torch.equal(first.probe.weight, other.probe.weight)


def test_no_more_tokens_are_read_than_allowed(model, when):
    quality = fit_probe(model, SITE, when, seed=0, n_boot=200, max_tokens=120).quality
    assert 40 < quality.n_tokens < 80


def test_both_halves_have_a_decision_where_only_two_problems_have_one(model):
    texts = {f"{n}=": ("ab",) for n in range(20)} | {"1?": ("ab",), "2?": ("cd",)}
    when = moments_of(model, texts)
    for seed in range(5):
        quality = probe_of(model, when, seed).quality
        assert quality.n_problems == 11
        assert quality.decided_share == 1 / 22


@pytest.mark.parametrize("asked", [(), ("1?",)])
def test_fewer_than_two_problems_with_a_decision_are_refused(model, asked):
    texts = {f"{n}=": ("ab",) for n in range(20)} | dict.fromkeys(asked, ("ab",))
    with pytest.raises(VectorError, match=rf"^{len(asked)} of {20 + len(asked)} problems have a token .* want two"):
        probe_of(model, moments_of(model, texts))


def test_decisions_everywhere_are_refused(model, when):
    everywhere = replace(when, decided=np.ones_like(when.decided))
    with pytest.raises(VectorError, match=r"differ at every token .* or a router that is always open"):
        probe_of(model, everywhere)


def moments_of(model, texts) -> Moments:
    problems, traces, disagreements = planted(texts)
    return moments(model, traces, disagreements, problems)
