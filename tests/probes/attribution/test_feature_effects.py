"""Means over texts, their intervals, completeness and agreement, against slow and independent ways to find them."""

import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from lab.metrics.bootstrap import percentile_interval, resampled_means, resamples
from lab.records.errors import EstimateError
from probes.attribution.contrast import CONTRASTS
from probes.attribution.effects import (
    Ablation,
    Gradient,
    Integrated,
    JointAblation,
    completeness,
    feature_effects,
    problem_sums,
)
from probes.tables import EFFECTS, TEXT_EFFECTS

AGREEMENT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks" / "agreement.py"))
FEATURES, PLACES = AGREEMENT["feature_agreement"], AGREEMENT["place_agreement"]
OWNERS = ["b", "a", "a", "c", "d", "b", "e", "f"]


def contrasts(owners=tuple(OWNERS)):
    return CONTRASTS.frame([{"problem_id": owner, "tokens": [1], "toward": [2], "against": [3]} for owner in owners])


def made_effects(seed, n_features=7, owners=tuple(OWNERS), noise=0.0):
    """Random effects on most places; feature 3 is active nowhere."""
    draw, added = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    rows = [
        {
            "text": text,
            "problem_id": owner,
            "position": position,
            "feature": feature,
            "activation": 1.0,
            "effect": float(np.float32(draw.normal() * feature + noise * added.normal())),
        }
        for text, owner in enumerate(owners)
        for position in range(3)
        for feature in range(n_features)
        if feature != 3 and draw.random() < 0.7
    ]
    return EFFECTS.frame(rows)


def weights(n_problems=6, n_boot=200):
    return resamples(n_problems, n_boot, np.random.default_rng(0))


def test_the_mean_counts_texts_without_the_feature_as_zero_and_leaves_out_features_active_nowhere():
    effects = EFFECTS.frame(
        [
            {"text": 0, "problem_id": "b", "position": 0, "feature": 5, "activation": 1.0, "effect": 3.0},
            {"text": 0, "problem_id": "b", "position": 2, "feature": 5, "activation": 1.0, "effect": -1.0},
            {"text": 2, "problem_id": "a", "position": 0, "feature": 5, "activation": 1.0, "effect": 6.0},
            {"text": 1, "problem_id": "a", "position": 1, "feature": 2, "activation": 2.0, "effect": -4.0},
        ]
    )
    found = feature_effects(effects, contrasts(), Integrated(4), weights())
    assert found.select("feature", "method", "effect", "n_texts").rows() == [
        (2, "integrated", -0.5, 1),
        (5, "integrated", 1.0, 2),
    ]


@pytest.mark.parametrize("chunk", [2, 1024])
def test_intervals_are_those_of_each_feature_alone(chunk, monkeypatch):
    monkeypatch.setattr("lab.metrics.bootstrap.CHUNK", chunk)
    owners, drawn = ["b", "a", "c", "d", "e", "f"], weights()
    effects = made_effects(1, owners=tuple(owners))
    found = feature_effects(effects, contrasts(owners), Ablation(), drawn)
    assert found["feature"].to_list() == [0, 1, 2, 4, 5, 6]
    for feature, value, low, high in found.select("feature", "effect", "low", "high").iter_rows():
        sums = dict(
            effects.filter(pl.col("feature") == feature)
            .group_by("problem_id")
            .agg(pl.col("effect").cast(pl.Float64).sum())
            .iter_rows()
        )
        alone = np.array([sums.get(owner, 0.0) for owner in owners])
        wanted = percentile_interval(float(alone.mean()), resampled_means(alone, drawn), 6)
        assert (value, low, high) == pytest.approx((wanted.value, wanted.low, wanted.high), nan_ok=True)


def test_a_problem_of_several_texts_is_drawn_with_all_of_them():
    effects, drawn = made_effects(1), weights()
    found = feature_effects(effects, contrasts(), Gradient(), drawn).filter(pl.col("feature") == 6)
    order = ["b", "a", "c", "d", "e", "f"]
    means = []
    for counts in drawn:
        texts = [
            text
            for owner, n in zip(order, counts, strict=True)
            for text in np.flatnonzero(np.array(OWNERS) == owner).tolist() * n
        ]
        sums = dict(
            effects.filter(pl.col("feature") == 6)
            .group_by("text")
            .agg(pl.col("effect").cast(pl.Float64).sum())
            .iter_rows()
        )
        means.append(np.mean([sums.get(text, 0.0) for text in texts]))
    wanted = percentile_interval(float(found["effect"][0]), np.array(means), 6)
    assert (found["low"][0], found["high"][0]) == pytest.approx((wanted.low, wanted.high))


@pytest.mark.parametrize("chunk", [5, 2**20])
def test_a_table_read_in_parts_has_the_sums_of_one_in_memory_to_the_last_bit(chunk, monkeypatch, tmp_path):
    monkeypatch.setattr("probes.attribution.effects.CHUNK", chunk)
    effects = made_effects(4, noise=1e-6)
    for first in range(0, len(effects), 40):
        effects[first : first + 40].write_parquet(tmp_path / f"{first:05d}.parquet")
    drawn = weights()
    parts = feature_effects(pl.scan_parquet(tmp_path), contrasts(), Ablation(), drawn)
    assert parts.equals(feature_effects(effects, contrasts(), Ablation(), drawn))
    with pytest.raises(EstimateError, match="effects on text 4 of 'd' came with 4 other contrasts"):
        feature_effects(pl.scan_parquet(tmp_path), contrasts(OWNERS[:4]), Gradient(), weights(3))


def test_sums_are_those_of_a_loop_over_the_rows():
    effects = made_effects(5)
    sums = problem_sums(effects.sample(fraction=1, shuffle=True, seed=0).lazy(), contrasts())
    order = ["b", "a", "c", "d", "e", "f"]
    added = dict.fromkeys(((owner, feature) for owner in order for feature in (0, 1, 2, 4, 5, 6)), 0.0)
    texts = {place: set() for place in added}
    for text, owner, feature, effect in effects.select("text", "problem_id", "feature", "effect").iter_rows():
        added[owner, feature] += effect
        texts[owner, feature].add(text)
    assert sums.features.tolist() == [0, 1, 2, 4, 5, 6]
    assert sums.effects.ravel() == pytest.approx(list(added.values()))
    assert sums.n_active.ravel().tolist() == [len(here) for here in texts.values()]
    assert sums.n_texts.tolist() == [2, 2, 1, 1, 1, 1]


def test_without_any_effect_there_is_no_row():
    assert feature_effects(made_effects(1).clear().lazy(), contrasts(), Ablation(), weights()).is_empty()


def test_one_problem_has_no_interval():
    found = feature_effects(made_effects(1, owners=("a", "a")), contrasts(("a", "a")), JointAblation(), weights(1))
    assert found["low"].is_nan().all()
    assert found["method"].unique().to_list() == ["joint ablation"]


def test_effects_of_other_contrasts_or_weights_of_other_problems_are_refused():
    effects = made_effects(1)
    for refused in (
        lambda: feature_effects(effects, contrasts(), Gradient(), weights(5)),
        lambda: FEATURES(effects, effects, contrasts(), weights(5)),
        lambda: PLACES(effects, effects, contrasts(), weights(5)),
    ):
        with pytest.raises(EstimateError, match="contrasts of 6 problems came with weights for 5"):
            refused()
    with pytest.raises(EstimateError, match="effects on text 0 of 'b' came with 8 other contrasts"):
        feature_effects(effects, contrasts(("x", *OWNERS[1:])), Gradient(), weights(7))
    with pytest.raises(EstimateError, match="effects on text 4 of 'd' came with 4 other contrasts"):
        feature_effects(effects, contrasts(OWNERS[:4]), Gradient(), weights(3))


def test_completeness_is_the_mean_error_as_a_share_of_the_mean_total():
    rows = [
        {"text": 0, "problem_id": "a", "contrast": 3.0, "without": 1.0, "explained": 2.5},
        {"text": 1, "problem_id": "b", "contrast": -1.0, "without": 5.0, "explained": -6.5},
    ]
    assert completeness(TEXT_EFFECTS.frame(rows)) == pytest.approx((0.5, 4.0, 0.125))
    still = TEXT_EFFECTS.frame([rows[0] | {"without": 3.0, "explained": 0.0}])
    assert completeness(still) == pytest.approx((0.0, 0.0, np.nan), nan_ok=True)


def repeated(effects, counts):
    """The effects of a resample, a text drawn twice standing there twice."""
    order = ["b", "a", "c", "d", "e", "f"]
    parts = [
        effects.filter(pl.col("problem_id") == owner) for owner, n in zip(order, counts, strict=True) for _ in range(n)
    ]
    return pl.concat(parts)


def by_feature(effects):
    return effects.group_by("feature").agg(pl.col("effect").cast(pl.Float64).sum()).sort("feature")["effect"]


@settings(max_examples=4)
@given(seed=st.integers(0, 1000), noise=st.floats(0, 10))
def test_agreement_is_scipys_rank_correlation_in_every_resample(seed, noise):
    one, other = made_effects(seed, noise=noise), made_effects(seed)
    # Ties, as zeros make them.
    one, other = (table.with_columns(pl.col("effect").round(0)) for table in (one, other))
    drawn = weights(n_boot=100)
    for agreement, values in ((PLACES, lambda table: table["effect"]), (FEATURES, by_feature)):
        found = agreement(one, other, contrasts(), drawn)
        replicates = np.array(
            [spearmanr(values(repeated(one, counts)), values(repeated(other, counts)))[0] for counts in drawn]
        )
        value = spearmanr(values(one), values(other))[0]
        wanted = percentile_interval(float(value), replicates, 6, bounds=(-1.0, 1.0))
        assert (found.value, found.low, found.high) == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-9)


def test_a_method_agrees_with_itself_and_disagrees_with_its_negative():
    one, drawn = made_effects(2), weights()
    other = one.with_columns(-pl.col("effect"))
    for agreement in (FEATURES, PLACES):
        assert agreement(one, one, contrasts(), drawn).value == pytest.approx(1)
        assert agreement(one, other, contrasts(), drawn).value == pytest.approx(-1)


def test_methods_with_other_entries_cannot_agree():
    one, drawn = made_effects(2), weights()
    joint = one.group_by("text", "problem_id", "feature").agg(pl.col("activation", "effect").sum())
    joint = joint.with_columns(pl.lit(None, dtype=pl.Int32).alias("position")).select(list(EFFECTS.dtypes))
    with pytest.raises(EstimateError, match="want two methods on the same SAE and contrasts, both with positions"):
        PLACES(one, joint, contrasts(), drawn)
    assert FEATURES(one, joint, contrasts(), drawn).value == pytest.approx(1)
    with pytest.raises(EstimateError, match="want two methods on the same SAE and contrasts"):
        FEATURES(one, one.filter(pl.col("feature") != 2), contrasts(), drawn)
    with pytest.raises(EstimateError, match="1 active features cannot be ranked"):
        FEATURES(*[one.filter(pl.col("feature") == 2)] * 2, contrasts(), drawn)
    with pytest.raises(EstimateError, match="2 effects cannot be ranked"):
        PLACES(one.head(2), one.head(2), contrasts(), drawn)
