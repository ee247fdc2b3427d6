"""A fit finds planted clusters, is a function of its seed, and does not look at the problems that it is judged on."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.metrics import normalized_mutual_info_score

from lab.records.errors import EstimateError
from probes.taxonomy.segments import parts
from probes.taxonomy.survey import noise
from probes.taxonomy.taxonomy import ClusteringSae, KMeans, fit, k_means, normalised

from .conftest import planted

METHODS = [ClusteringSae(), ClusteringSae(k=1), KMeans()]
QUICK = ClusteringSae(n_epochs=8)


def cut(data, seed=0):
    return parts(data.segments["problem_id"].to_list(), seed)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("n_clusters", [3, 5, 12])
def test_planted_clusters_are_found_on_problems_that_were_not_seen(method, n_clusters):
    data, cluster = planted(n_clusters, seed=n_clusters)
    of = cut(data)
    fitted = fit(data, of, n_clusters, method, seed=1)
    found = fitted.taxonomy.category(data.means).numpy()
    assert normalized_mutual_info_score(cluster[of.judged], found[of.judged]) > 0.95
    assert fitted.n_dead == 0
    assert sorted(fitted.taxonomy.names) == sorted(f"l{label}" for label in range(n_clusters))


@pytest.mark.parametrize("method", [QUICK, KMeans()], ids=str)
def test_what_is_read_is_normalised_as_what_was_fitted(method):
    data, cluster = planted(4)
    of = cut(data)
    taxonomy = fit(data, of, 4, method, seed=0).taxonomy
    raw, units = data.means, normalised(data.means, taxonomy.mean)
    torch.testing.assert_close(taxonomy.mean, raw[torch.from_numpy(of.fit)].mean(dim=0))
    assert torch.equal(taxonomy.category(raw), (units @ taxonomy.W_enc + taxonomy.b_enc).argmax(dim=1))
    # The planted mean is far from the origin, so a raw stream falls elsewhere.
    without = (raw @ taxonomy.W_enc + taxonomy.b_enc).argmax(dim=1)
    assert normalized_mutual_info_score(cluster, taxonomy.category(raw)) > 0.95
    assert normalized_mutual_info_score(cluster, without) < 0.8


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_equal_seeds_give_equal_bytes_and_others_do_not(method):
    data = noise(planted(3, 400)[0], seed=0)
    first, again, other = (fit(data, cut(data), 6, method, seed=seed) for seed in (5, 5, 6))
    pairs = [(tensor, again.taxonomy.tensors[name]) for name, tensor in first.taxonomy.tensors.items()]
    assert all(torch.equal(*pair) for pair in pairs)
    assert first.n_epochs == again.n_epochs
    assert not torch.equal(first.taxonomy.W_dec, other.taxonomy.W_dec)


def test_the_judged_part_is_not_looked_at():
    data, _ = planted(4, 600)
    of = cut(data)
    means = data.means.clone()
    means[torch.from_numpy(of.judged)] = torch.nan
    blind = fit(replace(data, means=means), of, 4, QUICK, seed=0).taxonomy
    seeing = fit(data, of, 4, QUICK, seed=0).taxonomy
    assert all(torch.equal(blind.tensors[name], tensor) for name, tensor in seeing.tensors.items())


def test_a_fit_keeps_the_epoch_that_explains_the_stopping_part_best_and_ends_when_none_is_better():
    data = noise(planted(4, 300)[0], seed=0)
    of = cut(data)
    stopping = data.means[torch.from_numpy(of.stopping)]
    fits = [fit(data, of, 4, ClusteringSae(n_epochs=n_epochs), seed=0) for n_epochs in (0, 1, 2, 5, 10, 300)]
    errors = [float(one.taxonomy.squared_errors(stopping).mean()) for one in fits]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]
    assert fits[-1].n_epochs < 300
    assert torch.equal(fits[0].taxonomy.W_dec, fit(data, of, 4, KMeans(), seed=0).taxonomy.W_dec)


def test_the_sae_explains_more_than_the_centres_it_starts_from_and_its_rows_are_unit():
    data, _ = planted(6)
    of = cut(data)
    sae, centres = (fit(data, of, 6, method, seed=0).taxonomy for method in (ClusteringSae(), KMeans()))
    judged = data.means[torch.from_numpy(of.judged)]
    assert sae.squared_errors(judged).mean() < centres.squared_errors(judged).mean()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(6))


def test_categories_without_a_segment_are_counted():
    data, _ = planted(2, 300, noise=0.0)
    fitted = fit(data, cut(data), 5, KMeans(), seed=0)
    assert fitted.n_dead == 3
    assert fitted.taxonomy.names.count("empty") == 1
    assert {"empty 2", "empty 3"} < set(fitted.taxonomy.names)


def test_fewer_segments_than_categories_are_refused():
    data, _ = planted(2, 40)
    with pytest.raises(EstimateError, match="30 categories of 20 segments to fit on: want at least 1 category"):
        fit(data, cut(data), 30, KMeans(), seed=0)


def test_more_latents_at_once_than_categories_are_refused():
    data, _ = planted(2, 40)
    with pytest.raises(EstimateError, match="k = 3 of 2 categories: want 1 to the number of categories"):
        fit(data, cut(data), 2, ClusteringSae(), seed=0)


def test_k_means_is_as_tight_as_that_of_scikit_learn():
    data = noise(planted(5, 500)[0], seed=1)
    units = normalised(data.means, data.means.mean(dim=0))
    ours = k_means(units, 6, torch.Generator().manual_seed(0))
    theirs = SklearnKMeans(6, n_init=8, random_state=0).fit(units.numpy()).cluster_centers_
    directions = torch.nn.functional.normalize(torch.from_numpy(theirs), dim=1)
    ours_close, theirs_close = (float((units @ centres.T).amax(dim=1).mean()) for centres in (ours, directions))
    assert ours_close > theirs_close - 0.01


def test_noise_has_the_mean_and_covariance_of_the_segments_and_no_clusters():
    data, cluster = planted(3, 3000)
    drawn = noise(data, seed=0)
    torch.testing.assert_close(drawn.means.mean(dim=0), data.means.mean(dim=0), rtol=0, atol=0.2)
    torch.testing.assert_close(drawn.means.T.cov(), data.means.T.cov(), rtol=0, atol=0.25)
    found = fit(drawn, cut(data), 3, KMeans(), seed=0).taxonomy.category(drawn.means)
    assert normalized_mutual_info_score(cluster, found) < 0.01
    assert torch.equal(drawn.means, noise(data, seed=0).means)
    assert not torch.equal(drawn.means, noise(data, seed=1).means)


ids = st.lists(st.integers(0, 40).map(str), min_size=3, max_size=80).filter(lambda found: len(set(found)) >= 3)


@given(ids, st.integers(0, 2**31))
@settings(max_examples=50)
def test_a_problem_is_in_one_part_whatever_the_order_of_its_segments(problem_ids, seed):
    of = parts(problem_ids, seed)
    assert (of.fit.astype(int) + of.stopping + of.judged == 1).all()
    assert of.fit.any()
    assert of.stopping.any()
    assert of.judged.any()
    sides = np.array(problem_ids)
    assert not set(sides[of.judged]) & set(sides[~of.judged])
    assert not set(sides[of.stopping]) & set(sides[~of.stopping])
    backwards = parts(problem_ids[::-1], seed)
    assert np.array_equal(backwards.judged[::-1], of.judged)


def test_two_problems_cannot_be_cut_into_three_parts():
    with pytest.raises(EstimateError, match="segments of 2 problems: want at least 3"):
        parts(["a", "b", "a"], 0)
