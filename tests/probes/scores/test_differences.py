"""Differences between two readings of the same texts, against a loop over features and resamples."""

import numpy as np
import polars as pl
import pytest

from lab.metrics.bootstrap import percentile_interval, resamples
from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, StorageError
from probes.capture.site import AllTokens
from probes.scores.contexts import differences, problem_sums

N_PROBLEMS = 6


@pytest.fixture(scope="module")
def weights() -> np.ndarray:
    return resamples(N_PROBLEMS, 200, np.random.default_rng(0))


def test_differences_are_what_a_loop_over_features_and_resamples_finds(store, tuned_store, sae, weights, read_all):
    before, after = read_all(store, sae), read_all(tuned_store, sae)
    problems = before.index["problem_id"].to_numpy()
    ids = before.index["problem_id"].unique(maintain_order=True).to_list()
    table = differences(store, tuned_store, sae, weights)
    assert len(table) == sae.d_sae
    for feature, row in enumerate(table.iter_rows(named=True)):
        old, new = before.features[:, feature], after.features[:, feature]
        assert row["feature"] == feature
        assert (row["base_mean"], row["tuned_mean"]) == pytest.approx((old.mean(), new.mean()))
        assert row["difference"] == pytest.approx(new.mean() - old.mean())
        spread = np.sqrt((old.var() + new.var()) / 2)
        assert row["effect_size"] == pytest.approx(
            (new.mean() - old.mean()) / spread if spread else np.nan, nan_ok=True
        )
        # A resample as what it is: problems' tokens, as often as they are drawn.
        drawn = [
            np.concatenate(
                [np.repeat((new - old)[problems == name], n) for name, n in zip(ids, draw, strict=True)]
            ).mean()
            for draw in weights
        ]
        interval = percentile_interval(row["difference"], np.array(drawn), N_PROBLEMS)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), nan_ok=True)


def test_a_feature_that_never_fires_has_no_interval_and_no_effect_size(store, tuned_store, sae, weights):
    dead = differences(store, tuned_store, sae, weights).row(0, named=True)
    assert (dead["base_mean"], dead["tuned_mean"], dead["difference"]) == (0, 0, 0)
    assert np.isnan([dead["low"], dead["high"], dead["effect_size"]]).all()


def test_the_other_way_round_every_sign_changes(store, tuned_store, sae, weights):
    there = differences(store, tuned_store, sae, weights)
    back = differences(tuned_store, store, sae, weights)
    for name in ("difference", "effect_size"):
        assert back[name].to_list() == pytest.approx((-there[name]).to_list(), nan_ok=True)
    assert back["base_mean"].equals(there["tuned_mean"])


def test_features_are_resampled_in_parts_without_a_seam(store, tuned_store, sae, weights, monkeypatch):
    whole = differences(store, tuned_store, sae, weights)
    monkeypatch.setattr("lab.metrics.bootstrap.CHUNK", 5)
    parts = differences(store, tuned_store, sae, weights)
    for name in ("low", "high"):
        assert parts[name].to_list() == pytest.approx(whole[name].to_list(), nan_ok=True)


def test_a_problem_without_a_stored_token_is_left_out(stores, sae, text_maker):
    texts = text_maker(6).with_columns(
        pl.when(pl.col("problem_id") == "p1")
        .then(pl.lit([], pl.List(pl.Int32)))
        .otherwise("completion")
        .alias("completion")
    )
    assert problem_sums(stores(tiny_model("llama", seed=5), texts), sae).problems == ("p0", "p2")


def test_stores_of_other_texts_or_positions_are_refused(store, stores, sae, weights, text_maker):
    others = (
        stores(tiny_model("llama", seed=6), text_maker(12, 1)),
        stores(tiny_model("llama", seed=6), rule=AllTokens()),
    )
    for other in others:
        with pytest.raises(StorageError, match="hold other tokens: want one capture of the same texts at the same"):
            differences(store, other, sae, weights)


def test_weights_of_other_problems_and_an_sae_of_another_width_are_refused(store, tuned_store, sae, saes, weights):
    with pytest.raises(StorageError, match="answer 6 problems and the resamples are of 5: make them with resamples"):
        differences(store, tuned_store, sae, weights[:, 1:])
    with pytest.raises(ModelError, match="reads streams of width 16"):
        differences(store, tuned_store, saes(5, d_model=16), weights)
