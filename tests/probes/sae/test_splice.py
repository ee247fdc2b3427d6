"""A spliced model reads its stream through an SAE, exactly, and is itself again afterwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.records.errors import ModelError, SiteError
from probes.capture.site import Site, hook_site
from probes.sae.dictionary import Reconstruction, load_sae, splice

from .conftest import CPU, D_SAE, jumprelu, metadata

TOKENS = torch.arange(2 * 7).reshape(2, 7) * 5


@pytest.fixture(scope="module")
def model():
    """In double precision, so that laws hold to many digits."""
    model = tiny_model("llama", seed=5, n_layers=3)
    model.network.double()
    return model


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    out = tmp_path_factory.mktemp("splice") / "sae"
    jumprelu(dtype="float64").save_model(out)
    return load_sae(out, device=CPU)


def logits(model):
    with torch.no_grad():
        return model.network(input_ids=TOKENS, use_cache=False).logits


def hooked(model, site, change, seen=logits):
    handle = hook_site(model, site, change)
    try:
        return seen(model)
    finally:
        handle.remove()


def stream(model):
    """What the block after the site reads: unlike logits, no norm has rounded it to single precision."""
    read = []
    handle = hook_site(model, Site(2, "resid_pre"), read.append)
    logits(model)
    handle.remove()
    return read[0]


@pytest.mark.parametrize("of_sae", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_unchanged_features_leave_the_logits_as_they_are_to_the_bit(dtype, of_sae, tmp_path):
    model = tiny_model("llama", seed=5, n_layers=3)
    model.network.to(dtype)
    jumprelu(dtype=of_sae).save_model(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae", device=CPU)
    clean = logits(model)
    with splice(model, sae, lambda features: features):
        assert torch.equal(logits(model), clean)
    with splice(model, sae, torch.zeros_like):
        changed = logits(model)
    assert changed.dtype == dtype
    assert not torch.equal(changed, clean)


@settings(max_examples=30)
@given(st.integers(0, D_SAE - 1), st.floats(-3, 3))
def test_adding_to_a_feature_adds_its_direction(model, sae, feature, amount):
    def raise_it(features):
        return features + amount * torch.eye(D_SAE, dtype=features.dtype)[feature]

    with splice(model, sae, raise_it):
        spliced = stream(model)
    added = hooked(model, sae.site, lambda read: read + amount * sae.W_dec[feature], stream)
    torch.testing.assert_close(spliced, added, atol=1e-12, rtol=1e-12)


def test_features_that_are_removed_leave_only_the_error_and_the_bias(model, sae):
    def rest(read):
        return read - sae.decode(sae.encode(read)) + sae.coder.b_dec

    with splice(model, sae, torch.zeros_like):
        removed = stream(model)
    torch.testing.assert_close(removed, hooked(model, sae.site, rest, stream), atol=1e-12, rtol=1e-12)


def test_the_reconstruction_stands_in_the_streams_place(model, sae):
    with splice(model, sae, Reconstruction()):
        spliced = logits(model)
    assert torch.equal(spliced, hooked(model, sae.site, lambda read: sae.decode(sae.encode(read))))


def test_cached_and_uncached_passes_agree(model, sae):
    with torch.no_grad(), splice(model, sae, lambda features: 2 * features):
        whole = model.network(input_ids=TOKENS, use_cache=False).logits
        cache = model.network(input_ids=TOKENS[:, :4], use_cache=True).past_key_values
        steps = []
        for place in range(4, 7):
            step = model.network(input_ids=TOKENS[:, place : place + 1], past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, dim=1), whole[:, 4:], atol=1e-6, rtol=1e-6)


def test_gradients_reach_the_features(model, sae):
    kept = []

    def keep(features):
        kept.append(features.detach().requires_grad_())
        return kept[0]

    with splice(model, sae, keep):
        model.network(input_ids=TOKENS, use_cache=False).logits[0, -1, 0].backward()
    assert kept[0].grad.abs().sum() > 0


def test_the_model_is_itself_again_also_after_an_exception(model, sae):
    clean = logits(model)
    with pytest.raises(RuntimeError, match="on purpose"), splice(model, sae, torch.zeros_like):
        raise RuntimeError("on purpose")
    with splice(model, sae, torch.zeros_like):
        pass
    assert torch.equal(logits(model), clean)


def test_a_hook_that_never_fires_is_an_error_only_if_the_model_ran(model, sae, monkeypatch):
    with splice(model, sae, torch.zeros_like):
        pass
    block = model.anatomy.blocks[sae.site.layer]
    # A pass that does without the block's hooks.
    monkeypatch.setattr(type(block), "__call__", lambda self, *inputs, **options: self.forward(*inputs, **options))
    with pytest.raises(SiteError, match="never acted in 1 passes"), splice(model, sae, torch.zeros_like):
        logits(model)


def test_an_sae_of_another_width_or_layer_is_refused(model, tmp_path):
    jumprelu(d_model=16).save_model(tmp_path / "narrow")
    with (
        pytest.raises(ModelError, match="width 16"),
        splice(model, load_sae(tmp_path / "narrow", device=CPU), Reconstruction()),
    ):
        pass
    jumprelu(metadata=metadata("blocks.9.hook_resid_post")).save_model(tmp_path / "high")
    with (
        pytest.raises(SiteError, match="layer 9 is out of range"),
        splice(model, load_sae(tmp_path / "high", device=CPU), Reconstruction()),
    ):
        pass
