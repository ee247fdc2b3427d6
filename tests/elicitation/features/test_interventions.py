import numpy as np
import polars as pl
import pytest
import torch

from elicitation.study.interventions import (
    DOSES,
    Ablated,
    Added,
    Candidates,
    alteration,
    feature_sets,
    first_token_rates,
    interventions,
)
from lab.models.pair import ModelPair
from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError

TOWARD = [84]


@pytest.fixture(scope="module")
def pair(model):
    return ModelPair(base=tiny_model("llama", seed=2), tuned=model)


@pytest.fixture(scope="module")
def candidates(signed_sae):
    generator = np.random.default_rng(0)
    return Candidates(
        sae=signed_sae,
        top=(4, 7, 40),
        mean_active=generator.uniform(0.5, 2.0, signed_sae.d_sae),
        firing_share=generator.uniform(0.2, 0.8, signed_sae.d_sae),
        first_token_share=np.zeros(signed_sae.d_sae),
    )


@pytest.fixture(scope="module")
def table(pair, candidates, texts):
    return interventions(pair, candidates, texts, TOWARD, n_boot=200, seed=0)


def test_every_intervention_has_the_top_features_and_both_controls(table):
    acted = ["top", "frequency_matched", "first_token"]
    assert table["features"].to_list() == ["none", *acted, "none", *acted * len(DOSES)]
    assert table["dose"].to_list() == [0.0, *[1.0] * 3, 0.0, *(dose for dose in DOSES for _ in range(3))]
    assert table["intervention"].n_unique() == 2


def test_a_change_is_the_rate_minus_that_of_the_untouched_model(table, pair, prompts):
    for name, model in (("ablated", pair.tuned), ("added", pair.base)):
        rows = table.filter(pl.col("intervention").str.starts_with(name))
        untouched = first_token_rates(model, prompts, TOWARD).mean()
        assert (rows["rate"] - rows["change"]).to_numpy() == pytest.approx(untouched)


def test_beyond_is_the_top_rate_minus_the_controls(table):
    tops = table.filter(pl.col("features") == "top")
    assert tops["beyond"].is_nan().all()
    for control in ("frequency_matched", "first_token"):
        rows = table.filter(pl.col("features") == control)
        assert rows["beyond"].to_numpy() == pytest.approx((tops["rate"] - rows["rate"]).to_numpy(), abs=1e-12)
        assert (rows["beyond_low"] <= rows["beyond"]).all()
        assert (rows["beyond"] <= rows["beyond_high"]).all()


def test_ablated_features_are_zero_and_others_stay(candidates, prompts):
    features = candidates.sae.encode(2 * drawn(4, 5, candidates.sae.d_model))
    sets = feature_sets(candidates, len(prompts), seed=0)
    cut = alteration(Ablated(), candidates, sets["frequency_matched"])(features, [3, 0, 7, 7])
    for row, prompt in enumerate((3, 0, 7, 7)):
        chosen = sets["frequency_matched"][prompt].tolist()
        others = [feature for feature in range(candidates.sae.d_sae) if feature not in chosen]
        assert (cut[row][:, chosen] == 0).all()
        assert (cut[row][:, others] == features[row][:, others]).all()


def test_what_a_control_adds_is_as_long_as_what_the_top_features_add(candidates, prompts):
    features = candidates.sae.encode(drawn(len(prompts), 2, candidates.sae.d_model))
    sets = feature_sets(candidates, len(prompts), seed=0)
    for dose in DOSES:
        lengths = {
            name: (
                (alteration(Added(dose), candidates, chosen)(features, range(len(prompts))) - features)
                @ candidates.sae.W_dec
            ).norm(dim=-1)
            for name, chosen in sets.items()
        }
        wanted = dose * np.linalg.norm(candidates.mean_active[list(candidates.top)])
        for length in lengths.values():
            assert length.numpy() == pytest.approx(wanted, rel=1e-4)


def test_the_same_seed_gives_the_same_table(table, pair, candidates, texts):
    assert interventions(pair, candidates, texts, TOWARD, n_boot=200, seed=0).equals(table, null_equal=True)


def test_no_feature_is_nothing_to_act_on(pair, candidates, texts, signed_sae):
    none = Candidates(
        sae=signed_sae,
        top=(),
        mean_active=candidates.mean_active,
        firing_share=candidates.firing_share,
        first_token_share=candidates.first_token_share,
    )
    with pytest.raises(EstimateError, match="no feature was chosen"):
        interventions(pair, none, texts, TOWARD, n_boot=10, seed=0)


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))
