import copy

import numpy as np
import polars as pl
import pytest
import torch

from elicitation.study.interventions import top_features
from lab.models.load import assemble
from probes.attribution.contrast import CONTRASTS


@pytest.fixture(scope="module")
def contrasts(prompts):
    rows = [{"problem_id": f"p{i}", "tokens": ids, "toward": [84], "against": [65]} for i, ids in enumerate(prompts)]
    return CONTRASTS.frame(rows)


@pytest.fixture(scope="module")
def found(model, signed_sae, contrasts):
    return top_features(model, signed_sae, contrasts, n_top=5, n_boot=200, seed=0)


def test_top_features_are_those_of_the_largest_effect_surely_above_zero(found):
    known = {row["feature"]: row["effect"] for row in found.effects.to_dicts() if row["low"] > 0}
    assert found.top == tuple(sorted(known, key=lambda feature: -known[feature])[:5])
    assert found.total == pytest.approx(sum(known[feature] for feature in found.top))
    assert 0 < len(found.top) <= 5


def test_a_feature_whose_interval_is_not_known_is_not_chosen(model, signed_sae, contrasts):
    """One problem gives no interval at all."""
    alone = top_features(model, signed_sae, contrasts.head(1), n_top=5, n_boot=100, seed=0)
    assert alone.effects["low"].is_nan().all()
    assert (alone.top, alone.total) == ((), 0.0)


def test_a_model_in_bfloat16_is_ablated_in_float32(model, signed_sae, contrasts, found):
    coarse = assemble(copy.deepcopy(model.network).bfloat16(), model.tokenizer, name="coarse")
    exact = found.effects.select("feature", "effect")
    both = top_features(coarse, signed_sae, contrasts, n_top=5, n_boot=100, seed=0).effects.join(exact, on="feature")
    assert np.corrcoef(both["effect"], both["effect_right"])[0, 1] > 0.99


def test_at_the_last_block_only_the_last_token_counts_and_the_effect_is_what_ablating_it_costs(
    model, signed_sae, contrasts, prompts, found
):
    feature = found.top[0]
    lost = []
    for prompt in prompts:
        with torch.no_grad():
            clean = model.network(input_ids=torch.tensor([prompt])).logits[0, -1]

            def cut(module, args, output):
                features = signed_sae.encode(output)
                return output - features[..., feature, None] * signed_sae.W_dec[feature]

            handle = model.anatomy.blocks[-1].register_forward_hook(cut)
            without = model.network(input_ids=torch.tensor([prompt])).logits[0, -1]
            handle.remove()
        lost.append(float((clean[84] - clean[65]) - (without[84] - without[65])))
    effect = found.effects.filter(pl.col("feature") == feature)["effect"].item()
    assert effect == pytest.approx(np.mean(lost), abs=1e-4)


def test_first_token_shares_count_prompts_at_whose_last_token_a_feature_is_active(model, signed_sae, prompts, found):
    active = []
    for prompt in prompts:
        streams = []
        handle = model.anatomy.blocks[-1].register_forward_hook(lambda m, a, output, kept=streams: kept.append(output))
        with torch.no_grad():
            model.network(input_ids=torch.tensor([prompt]))
        handle.remove()
        active.append((signed_sae.encode(streams[0])[0, -1] > 0).numpy())
    assert found.first_token_share == pytest.approx(np.mean(active, axis=0))
