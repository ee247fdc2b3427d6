"""A taxonomy of moments learns from the very tokens that stand before segments, as a store of activations has them."""

import numpy as np
import pytest
import torch

from lab.records.errors import EstimateError, StorageError
from lab.records.provenance import provenance
from lab.records.seeds import child_seed
from probes.capture.site import TEXTS, AllTokens, Site
from probes.storage.fill import fill
from probes.storage.store import plan
from probes.taxonomy.segments import Sentences, parts, segment_means, segments
from probes.taxonomy.survey import token_before
from probes.taxonomy.taxonomy import ClusteringSae, KMeans, fit
from steering.routing.category_vectors import Moments, moment_taxonomy, moments
from tests.steering.routing.conftest import planted

SITE = Site(1)
RULE = Sentences((".", "?"))


@pytest.fixture(scope="module")
def when(model, written) -> Moments:
    return moments(model, written.traces, written.disagreements, written.problems)


@pytest.mark.parametrize("method", [KMeans(), ClusteringSae(n_epochs=5)], ids=["k-means", "sae"])
def test_it_is_the_fit_of_the_tokens_before_segments_in_a_store(model, when, method, tmp_path):
    texts = TEXTS.frame(
        [
            {"problem_id": name, "sample_index": index, "prompt": row.context, "completion": row.completion}
            for index, (name, row) in enumerate(zip(when.problem_ids, when.rows, strict=True))
        ]
    )
    made_by = provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)
    planned = plan(model, texts, (SITE,), AllTokens(), shard_bytes=10_000)
    store = fill(model, texts, planned, tmp_path / "store", made_by)
    found = segments(RULE, model.tokenizer, texts)
    read = segment_means(store, token_before(found), SITE)
    cut = parts(found["problem_id"].to_list(), child_seed(4, "parts"))
    slow = fit(read, cut, 3, method, seed=child_seed(4, "taxonomy")).taxonomy
    fast = moment_taxonomy(model, SITE, when, RULE, 3, method=method, seed=4)
    for name, tensor in slow.tensors.items():
        torch.testing.assert_close(fast.tensors[name], tensor, rtol=1e-3, atol=1e-4)
    assert (fast.model, fast.model_digest, fast.site) == (model.name, model.digest, SITE)


def test_what_a_segment_begins_after_is_told_apart(model, when):
    taxonomy = moment_taxonomy(model, Site(0), when, RULE, 4, method=KMeans(), seed=0)
    assert taxonomy.n_categories == 4
    assert len(set(taxonomy.names)) == 4


def test_texts_without_a_segment_are_refused(model):
    problems, traces, disagreements = planted({"1?": ("  ",), "2?": (" ",), "3?": ("\t",)})
    with pytest.raises(StorageError, match="no segment in 3 texts"):
        moment_taxonomy(model, SITE, moments(model, traces, disagreements, problems), RULE, 2, method=KMeans(), seed=0)


def test_more_categories_than_segments_are_refused(model):
    problems, traces, disagreements = planted({f"{n}?": ("a.",) for n in range(4)})
    when = moments(model, traces, disagreements, problems)
    assert np.array_equal(when.positions, [0, 1] * 4)
    with pytest.raises(EstimateError, match="5 categories of"):
        moment_taxonomy(model, SITE, when, RULE, 5, method=KMeans(), seed=0)
