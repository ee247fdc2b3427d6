"""A survey goes from a store to judged taxonomies, of the store's own model only."""

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError, StorageError
from lab.tasks.chain import CHAIN_STEPS
from probes.capture.site import SentenceEnds
from probes.taxonomy.segments import Sentences, Steps
from probes.taxonomy.survey import Survey, survey
from probes.taxonomy.taxonomy import ClusteringSae, KMeans, require_fit

from .conftest import PROBLEMS, SITES

STEPS = Steps(CHAIN_STEPS, PROBLEMS)
METHODS = (ClusteringSae(k=1, n_epochs=3), KMeans())


def surveyed(model, store, rule=STEPS, sizes=(2, 4)) -> Survey:
    return survey(model, store, rule, SITES, sizes, METHODS, n_seeds=2, n_boot=100, seed=0)


@pytest.fixture(scope="module")
def found(model, store) -> Survey:
    return surveyed(model, store)


def test_every_site_method_and_size_is_fitted_judged_and_described(found, model):
    wanted = [f"{site}-{method}-{size}" for site in SITES for method in ("sae-k1", "k-means") for size in (2, 4)]
    assert list(found.taxonomies) == wanted
    assert len(found.quality) == len(wanted) * (2 + 4 * 3 + 3)
    assert len(found.contents) == len(SITES) * len(METHODS) * (2 + 4)
    for name, taxonomy in found.taxonomies.items():
        assert str(taxonomy.site) == name.split("-")[0]
        require_fit(taxonomy, model)


def test_a_survey_is_a_function_of_its_seed(found, model, store):
    again = survey(model, store, STEPS, SITES[:1], (2,), METHODS[:1], n_seeds=2, n_boot=100, seed=0)
    (name,) = again.taxonomies
    assert again.quality.equals(found.quality[: len(again.quality)])
    assert again.contents.equals(found.contents[: len(again.contents)])
    tensors = found.taxonomies[name].tensors
    assert all(torch.equal(tensor, tensors[part]) for part, tensor in again.taxonomies[name].tensors.items())


def test_progress_counts_every_fit(model, store):
    told = []

    def watch(n: int, total: int) -> None:
        told.append((n, total))

    survey(model, store, STEPS, SITES[:1], (2, 3), METHODS[1:], n_seeds=2, n_boot=100, seed=0, on_progress=watch)
    assert told == [(0, 8), (4, 8), (4, 8)]


def test_sentences_are_surveyed_without_labels(model, store):
    found = surveyed(model, store, Sentences((";",)), sizes=(2,))
    assert found.quality.filter(found.quality["measure"] == "purity")["value"].is_nan().all()
    assert not found.contents["name"].str.contains("step").any()


def test_a_store_of_another_model_is_refused(store):
    with pytest.raises(StorageError, match="want that very model"):
        surveyed(tiny_model("llama", seed=9), store)


def test_a_store_of_some_tokens_is_refused(model, filled):
    with pytest.raises(StorageError, match="capture all tokens"):
        surveyed(model, filled(SentenceEnds((";",))))


def test_more_categories_than_segments_are_refused(model, store):
    with pytest.raises(EstimateError, match="99 categories of"):
        surveyed(model, store, sizes=(99,))
