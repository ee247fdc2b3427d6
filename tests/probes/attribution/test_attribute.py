"""Effects of features: exact ablation is what a full pass loses, and gradients agree with it where they must."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError, ModelError, SiteError
from probes.attribution.contrast import CONTRASTS
from probes.attribution.effects import Ablation, Gradient, Integrated, JointAblation, attribute, completeness
from probes.capture.site import Site, hook_site
from tests.kinds import one_always

from .conftest import MadeSae, no_gradient_is_left

N_LAYERS = 3
METHODS = [Ablation(), JointAblation(), Gradient(), Integrated(8)]
LAST = Site(N_LAYERS - 1)


@pytest.fixture(scope="module", params=one_always(["llama", "gpt2", "gemma2"]))
def model(request):
    return tiny_model(request.param, seed=5, n_layers=N_LAYERS)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", seed=5, n_layers=N_LAYERS)


@torch.no_grad()
def spliced(model, sae, row, change=None):
    """The contrast of one text by a full pass in which the features are changed and the SAE's error is put back."""

    def splice(stream):
        features = sae.encode(stream)
        error = stream - sae.decode(features)
        return sae.decode(features if change is None else change(features)) + error

    handle = hook_site(model, sae.site, splice)
    try:
        logits = model.network(torch.tensor([row["tokens"]])).logits[0, -1].double()
    finally:
        handle.remove()
    return float(logits[row["toward"]].exp().sum().log() - logits[row["against"]].exp().sum().log())


def without(feature, position=slice(None)):
    """Sets a feature to zero, at one position or at all."""

    def change(features):
        changed = features.clone()
        changed[0, position, feature] = 0
        return changed

    return change


@pytest.mark.parametrize(("site", "batch"), [(Site(0, "resid_pre"), 64), (Site(1), 2), (LAST, 64)], ids=str)
def test_ablation_is_what_full_passes_lose_feature_by_feature(model, top_k, contrasts, site, batch):
    sae, contrasts = top_k(site), contrasts.tail(3)
    found = attribute(model, sae, contrasts, Ablation(), batch=batch)
    n_seen = 0
    for text, row in enumerate(contrasts.iter_rows(named=True)):
        whole = spliced(model, sae, row)
        for position, feature, effect in (
            found.effects.filter(pl.col("text") == text).select("position", "feature", "effect").iter_rows()
        ):
            assert effect == pytest.approx(whole - spliced(model, sae, row, without(feature, position)), abs=2e-4)
            n_seen += 1
        assert found.texts["contrast"][text] == pytest.approx(whole, abs=2e-4)
        nothing = spliced(model, sae, row, torch.zeros_like)
        assert found.texts["without"][text] == pytest.approx(nothing, abs=2e-4)
    assert n_seen == len(found.effects) > 20


def test_a_joint_ablation_takes_a_feature_away_at_all_places_at_once(model, standard, contrasts):
    sae = standard(Site(0))
    found = attribute(model, sae, contrasts, JointAblation(), batch=7).effects
    assert found["position"].null_count() == len(found)
    assert not found.select("text", "feature").is_duplicated().any()
    for text, feature, effect in found.select("text", "feature", "effect")[::9].iter_rows():
        row = contrasts.row(text, named=True)
        lost = spliced(model, sae, row) - spliced(model, sae, row, without(feature))
        assert effect == pytest.approx(lost, abs=2e-4)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_there_is_a_row_for_every_active_feature_and_no_other(llama, top_k, contrasts, method):
    sae = top_k(Site(1))
    found = attribute(llama, sae, contrasts, method, batch=2).effects
    wanted = {}
    for text, tokens in enumerate(contrasts["tokens"]):
        stream = llama.network(torch.tensor([tokens.to_list()]), output_hidden_states=True).hidden_states[2][0]
        features = sae.encode(stream)
        for position, feature in features.nonzero().tolist():
            key = (text, None, feature) if method == JointAblation() else (text, position, feature)
            wanted[key] = wanted.get(key, 0) + float(features[position, feature])
    came = {
        tuple(key): activation for *key, activation in found.select("text", "position", "feature", "activation").rows()
    }
    assert came == pytest.approx(wanted, rel=1e-4)
    assert found["problem_id"].to_list() == contrasts["problem_id"].to_numpy()[found["text"]].tolist()
    assert list(came) == sorted(came, key=lambda key: (key[0], -1 if key[1] is None else key[1], key[2]))


def test_gradient_is_the_derivative_of_the_contrast_with_respect_to_the_features(model, standard, contrasts):
    sae = standard(Site(0))
    found = attribute(model, sae, contrasts, Gradient()).effects
    for text, row in enumerate(contrasts.iter_rows(named=True)):
        kept = []

        def splice(stream, kept=kept):
            features = sae.encode(stream.detach())
            kept.append(features.detach().requires_grad_())
            return sae.decode(kept[0]) + (stream - sae.decode(features)).detach()

        handle = hook_site(model, sae.site, splice)
        logits = model.network(torch.tensor([row["tokens"]])).logits[0, -1]
        handle.remove()
        scalar = logits[row["toward"]].logsumexp(0) - logits[row["against"]].logsumexp(0)
        (slope,) = torch.autograd.grad(scalar, kept[0])
        mine = found.filter(pl.col("text") == text)
        wanted = (kept[0].detach() * slope)[0, mine["position"].to_list(), mine["feature"].to_list()]
        np.testing.assert_allclose(mine["effect"].to_numpy(), wanted.numpy(), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("site", [Site(0), Site(1)], ids=str)
def test_integrated_gradients_sum_to_what_all_features_add_together(model, standard, contrasts, site):
    few, many = (completeness(attribute(model, standard(site), contrasts, Integrated(n)).texts) for n in (2, 64))
    assert many.share < 0.02
    assert many.error < few.error


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_is_explained_is_the_sum_over_places_and_features(llama, top_k, contrasts, method):
    found = attribute(llama, top_k(Site(0)), contrasts, method, batch=2)
    sums = dict(found.effects.group_by("text").agg(pl.col("effect").cast(pl.Float64).sum()).iter_rows())
    assert found.texts["explained"].to_list() == pytest.approx([sums[text] for text in range(5)], abs=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_where_only_a_linear_head_follows_every_method_gives_the_product_of_hand(llama, standard, contrasts, method):
    """Above the last block, without its norm: effect = activation * W_dec[feature] @ (toward row - against row)."""
    network_norm = llama.network.model.norm
    anatomy = replace(llama.anatomy, final_norm=torch.nn.Identity())
    headed = replace(llama, anatomy=anatomy)
    llama.network.model.norm = anatomy.final_norm
    try:
        sae = standard(LAST)
        table = contrasts.with_columns(pl.col("toward").list.head(1), pl.col("against").list.head(1))
        found = attribute(headed, sae, table, method).effects
    finally:
        llama.network.model.norm = network_norm
    head = llama.anatomy.unembed.weight
    sums = found.group_by("text", "feature", maintain_order=True).agg(pl.col("effect").sum())
    n_compared = 0
    for text, row in enumerate(table.iter_rows(named=True)):
        streams = llama_stream(llama, row["tokens"])
        features = sae.encode(streams)[-1]
        wanted = features * (sae.W_dec @ (head[row["toward"][0]] - head[row["against"][0]]))
        mine = dict(sums.filter(pl.col("text") == text).select("feature", "effect").iter_rows())
        for feature, effect in mine.items():
            # Only the last token's stream reaches the last token's logits.
            assert effect == pytest.approx(float(wanted[feature]), abs=1e-4)
            n_compared += 1
    assert n_compared > 50


@torch.no_grad()
def llama_stream(model, tokens):
    """The output of the last block at every token."""
    kept = []
    handle = hook_site(model, LAST, lambda stream: kept.append(stream[0].clone()))
    model.network(torch.tensor([tokens]))
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_batch_only_bounds_memory(llama, top_k, contrasts, method):
    small, large = (attribute(llama, top_k(Site(0)), contrasts, method, batch=batch) for batch in (1, 64))
    for name in ("effects", "texts"):
        one, other = getattr(small, name), getattr(large, name)
        numbers = [column for column, dtype in one.schema.items() if dtype in (pl.Float32, pl.Float64)]
        assert one.drop(numbers).equals(other.drop(numbers))
        np.testing.assert_allclose(
            one.select(numbers).to_numpy(), other.select(numbers).to_numpy(), rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_no_more_streams_pass_the_blocks_above_at_once_than_the_batch(llama, top_k, contrasts, method):
    sizes = []
    handle = llama.anatomy.blocks[-1].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    attribute(llama, top_k(Site(0)), contrasts, method, batch=3)
    handle.remove()
    assert max(sizes) == 3


def n_hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.network.modules())


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_nothing_is_left_behind_and_logits_are_as_before(llama, standard, contrasts, method):
    ids, sae = torch.tensor([[1, 2, 3]]), standard(Site(1))
    before, n_before = llama.network(ids).logits, n_hooks(llama)
    attribute(llama, sae, contrasts, method)
    assert no_gradient_is_left(llama, sae)
    assert torch.equal(llama.network(ids).logits, before)
    assert n_hooks(llama) == n_before


def test_a_model_in_bfloat16_takes_an_sae_in_float32(standard, contrasts):
    models = [tiny_model("llama", seed=5, n_layers=N_LAYERS) for _ in range(2)]
    models[1].network.to(torch.bfloat16)
    one, other = (attribute(model, standard(Site(0)), contrasts, Integrated(8)).texts for model in models)
    np.testing.assert_allclose(one["explained"], other["explained"], atol=0.3)
    assert other["explained"].is_finite().all()


def test_a_text_in_which_no_feature_is_active_has_no_effects(llama, contrasts):
    silent = MadeSae()(Site(1))
    with torch.no_grad():
        silent.coder.b_enc.fill_(-1e6)
    for method in METHODS:
        found = attribute(llama, silent, contrasts, method)
        assert found.effects.is_empty()
        assert found.texts["contrast"].to_list() == found.texts["without"].to_list()
        assert found.texts["explained"].to_list() == [0.0] * len(contrasts)


def test_an_sae_of_another_width_is_refused(llama, contrasts):
    with pytest.raises(ModelError, match="reads streams of width 16, and tiny-llama-5 has d_model 32"):
        attribute(llama, MadeSae(d_in=16)(Site(0)), contrasts, Gradient())


def test_a_layer_out_of_range_is_refused(llama, standard, contrasts):
    with pytest.raises(SiteError, match="layer 3 is out of range: tiny-llama-5 has 3 layers, want 0 to 2"):
        attribute(llama, standard(Site(3)), contrasts, Gradient())


def test_requests_that_make_no_sense_are_refused(llama, standard, contrasts):
    with pytest.raises(EstimateError, match="no contrasts came"):
        attribute(llama, standard(Site(0)), CONTRASTS.frame([]), Gradient())
    with pytest.raises(EstimateError, match="batches of 0 texts: want at least 1"):
        attribute(llama, standard(Site(0)), contrasts, Gradient(), batch=0)
    with pytest.raises(EstimateError, match="in 0 steps: want at least 1"):
        Integrated(0)
