"""SAEs in SAELens' format, read as SAELens reads them, or refused in one line."""

import json

import pytest
import torch
from sae_lens import SAE, GatedSAE, TopKSAE, Transcoder
from sae_lens.saes.gated_sae import GatedSAEConfig
from sae_lens.saes.topk_sae import TopKSAEConfig
from sae_lens.saes.transcoder import TranscoderConfig
from safetensors.torch import load_file, save_file

from lab.models.tiny import tiny_model
from lab.records.errors import LabError, ModelError, SiteError
from probes.capture.site import Site
from probes.sae.architecture import CONFIG, OURS
from probes.sae.dictionary import WEIGHTS, load_sae, made_by, release_sae, require_fit

from .conftest import CPU, D_MODEL, D_SAE, fill_weights, jumprelu, metadata

STREAM = torch.randn(3, 5, D_MODEL, generator=torch.Generator().manual_seed(1))


def coders():
    sizes = {"d_in": D_MODEL, "d_sae": D_SAE, "metadata": metadata()}
    return {
        "jumprelu": jumprelu(),
        "gated": fill_weights(GatedSAE(GatedSAEConfig(**sizes))),
        "topk": fill_weights(TopKSAE(TopKSAEConfig(**sizes, k=7))),
        "rescaled": fill_weights(TopKSAE(TopKSAEConfig(**sizes, k=7, rescale_acts_by_decoder_norm=True))),
        "uncentred": jumprelu(apply_b_dec_to_input=False),
        "bfloat16": jumprelu(dtype="bfloat16"),
    }


@pytest.fixture(params=coders())
def saved(request, tmp_path):
    coder = coders()[request.param]
    coder.save_model(tmp_path / "sae")
    return coder


def test_it_reads_and_writes_streams_as_saelens_does(saved, tmp_path):
    sae, theirs = load_sae(tmp_path / "sae", device=CPU), SAE.load_from_disk(tmp_path / "sae")
    features = sae.encode(STREAM)
    assert (features > 0).any()
    assert (features >= 0).all()
    assert features.dtype == sae.dtype == theirs.dtype
    torch.testing.assert_close(features, theirs.encode(STREAM), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(sae.decode(features), theirs.decode(theirs.encode(STREAM)), atol=1e-5, rtol=1e-5)


def test_it_decodes_by_its_matrix_for_any_features(saved, tmp_path):
    sae = load_sae(tmp_path / "sae", device=CPU)
    features = torch.rand(4, D_SAE, generator=torch.Generator().manual_seed(2)).to(sae.dtype)
    assert torch.equal(sae.decode(features), features @ sae.W_dec + sae.coder.b_dec)


def test_it_is_frozen(saved, tmp_path):
    coder = load_sae(tmp_path / "sae", device=CPU).coder
    assert not coder.training
    assert not any(parameter.requires_grad for parameter in coder.parameters())


def test_a_decoder_norm_is_folded_without_changing_what_is_chosen(tmp_path):
    coders()["rescaled"].save_model(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae", device=CPU)
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(D_SAE))
    assert torch.equal(sae.encode(STREAM) > 0, SAE.load_from_disk(tmp_path / "sae").encode(STREAM) > 0)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.3.hook_resid_post", Site(3)),
        ("blocks.3.hook_resid_pre", Site(3, "resid_pre")),
        ("blocks.12.hook_out", Site(12)),
        ("blocks.0.hook_in", Site(0, "resid_pre")),
    ],
)
def test_both_names_of_a_stream_are_known(name, site, tmp_path):
    jumprelu(metadata=metadata(name)).save_model(tmp_path / "sae")
    assert load_sae(tmp_path / "sae", device=CPU).site == site


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (None, "does not say what it reads: want metadata.hook_name"),
        ("blocks.3.hook_mlp_out", "reads 'blocks.3.hook_mlp_out': want the residual stream"),
        ("blocks.3.attn.hook_z", "want the residual stream"),
        ("model.layers.3", "want the residual stream"),
    ],
)
def test_an_sae_of_anything_else_is_refused(name, message, tmp_path):
    jumprelu(metadata=metadata(name)).save_model(tmp_path / "sae")
    with pytest.raises(SiteError, match=message):
        load_sae(tmp_path / "sae", device=CPU)


@pytest.mark.parametrize("scheme", ["layer_norm", "constant_norm_rescale", "expected_average_only_in"])
def test_normalisation_outside_the_weights_is_refused(scheme, tmp_path):
    jumprelu(normalize_activations=scheme).save_model(tmp_path / "sae")
    with pytest.raises(ModelError, match=f"normalised by {scheme}, which is not in its weights"):
        load_sae(tmp_path / "sae", device=CPU)


def test_reshaped_heads_are_refused(tmp_path):
    jumprelu(reshape_activations="hook_z", metadata=metadata("blocks.1.attn.hook_z")).save_model(tmp_path / "sae")
    with pytest.raises(SiteError, match="reshaped by hook_z"):
        load_sae(tmp_path / "sae", device=CPU)


def test_a_transcoder_is_refused(tmp_path):
    sizes = {"d_in": D_MODEL, "d_out": D_MODEL, "d_sae": D_SAE}
    Transcoder(TranscoderConfig(**sizes, apply_b_dec_to_input=False, metadata=metadata())).save_model(tmp_path / "sae")
    with pytest.raises(ModelError, match="of kind 'transcoder': want one of standard, gated, jumprelu, topk"):
        load_sae(tmp_path / "sae", device=CPU)


def spoilt(out, change):
    """A saved SAE whose configuration `change` has edited."""
    jumprelu().save_model(out)
    described = json.loads((out / CONFIG).read_text())
    change(described)
    (out / CONFIG).write_text(json.dumps(described))


def test_what_is_missing_or_unreadable_is_named_in_one_line(tmp_path):
    def message(out):
        with pytest.raises(ModelError) as caught:
            load_sae(out, device=CPU)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    out = tmp_path / "sae"
    assert message(out) == f"no directory at {out}; check the path of the SAE"
    out.mkdir()
    assert "it has no cfg.json" in message(out)
    (out / CONFIG).write_text("{")
    assert f"has no weights: want {WEIGHTS}" in message(out)
    (out / "sae.pt").write_bytes(b"")
    assert "only pickled weights (sae.pt), which can run code" in message(out)
    save_file({}, out / WEIGHTS)
    assert "cannot load the SAE" in message(out)
    spoilt(out, lambda described: described.update(d_sae=5))
    assert "cannot load the SAE" in message(out)
    spoilt(out, lambda described: described.update(architecture="batchtopk"))
    assert "cannot load the SAE" in message(out)
    jumprelu().save_model(out)
    (out / WEIGHTS).write_bytes((out / WEIGHTS).read_bytes()[:99])
    assert "SafetensorError" in message(out)


@pytest.mark.filterwarnings(r"ignore:\s*This SAE has non-empty model_from_pretrained_kwargs")
@pytest.mark.parametrize("name", ["jumprelu", "topk", "rescaled", "uncentred"])
def test_one_that_learnt_streams_of_centred_weights_takes_the_mean_off_itself(name, tmp_path):
    coder = coders()[name]
    coder.cfg.metadata.model_from_pretrained_kwargs = {"center_writing_weights": True}
    coder.save_model(tmp_path / "sae")
    sae, theirs = load_sae(tmp_path / "sae", device=CPU), SAE.load_from_disk(tmp_path / "sae")
    stream = STREAM + 3.0
    expected = theirs.encode(stream - stream.mean(dim=-1, keepdim=True))
    if name == "rescaled":
        theirs.fold_W_dec_norm()
        theirs.cfg.rescale_acts_by_decoder_norm = False
        expected = theirs.encode(stream - stream.mean(dim=-1, keepdim=True))
    torch.testing.assert_close(sae.encode(stream), expected, atol=1e-5, rtol=1e-5)
    require_fit(sae, tiny_model("gpt2", d_model=D_MODEL))
    with pytest.raises(ModelError, match=r"centred weights .* only a model with LayerNorm has, and .* has none"):
        require_fit(sae, tiny_model("llama", d_model=D_MODEL))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": ...}, "its k is None, want a whole number"),
        ({"k": "16"}, "its k is '16', want a whole number"),
        ({"k": 1.5}, "its k is 1.5, want a whole number"),
        ({"k": True}, "its k is True, want a whole number"),
        ({"k": -1}, "has k -1: want a whole number from 1 to its 48 features"),
        ({"k": 49}, "has k 49: want a whole number from 1 to its 48 features"),
        ({"k": 8}, "says that it is topk:7, and its files hold topk with k 8"),
        ({"architecture": "standard", "k": ...}, "says that it is topk:7, and its files hold standard"),
        ({"activation_fn": "gelu"}, "its activation is 'gelu', want relu or topk"),
        ({"activation_fn_str": "tanh-relu"}, "its activation is 'tanh-relu'"),
        ({"apply_b_dec_to_input": None}, "its apply_b_dec_to_input is None, want true or false"),
        ({"apply_b_dec_to_input": ...}, "lacks apply_b_dec_to_input, which it was written with"),
        ({"rescale_acts_by_decoder_norm": ...}, "lacks rescale_acts_by_decoder_norm"),
        ({OURS: "topk:x"}, "no SAE is trained as 'topk:x'"),
        ({OURS: 7}, "no SAE is trained as '7'"),
        ({"metadata": "x"}, "cannot load the SAE"),
        ({"d_sae": 10**400}, "cannot load the SAE"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_line(changes, message, tmp_path):
    coder, change = coders()["topk"], dict(changes)
    coder.cfg.metadata[OURS] = {"architecture": "topk:7"}
    coder.save_model(tmp_path / "sae")
    described = json.loads((tmp_path / "sae" / CONFIG).read_text())
    described["metadata"][OURS]["architecture"] = change.pop(OURS, "topk:7")
    described |= change
    (tmp_path / "sae" / CONFIG).write_text(
        json.dumps({key: item for key, item in described.items() if item is not ...})
    )
    with pytest.raises(ModelError, match=message) as caught:
        load_sae(tmp_path / "sae", device=CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["b_enc", "W_dec"])
def test_weights_that_are_no_numbers_are_refused(name, tmp_path):
    coder = jumprelu()
    with torch.no_grad():
        getattr(coder, name).view(-1)[3] = torch.nan
    coder.save_model(tmp_path / "sae")
    with pytest.raises(ModelError, match=f"has {name} with NaN or infinity"):
        load_sae(tmp_path / "sae", device=CPU)


def test_weights_that_are_whole_numbers_are_refused(tmp_path):
    jumprelu().save_model(tmp_path / "sae")
    file = tmp_path / "sae" / WEIGHTS
    save_file({name: tensor.view(torch.int32) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(ModelError, match="its weights are I32, want floating point"):
        load_sae(tmp_path / "sae", device=CPU)


def test_the_digest_is_that_of_weights_and_configuration_alone(tmp_path):
    jumprelu().save_model(tmp_path / "one")
    jumprelu(metadata=metadata("blocks.1.hook_out")).save_model(tmp_path / "same")
    jumprelu(apply_b_dec_to_input=False).save_model(tmp_path / "other")
    jumprelu(metadata=metadata("blocks.2.hook_out")).save_model(tmp_path / "elsewhere")
    digests = {path.name: load_sae(path, device=CPU).digest for path in tmp_path.iterdir()}
    assert digests["one"] == digests["same"]
    assert len(set(digests.values())) == 3


def test_a_strangers_sae_says_its_kind_and_not_who_made_it(tmp_path):
    jumprelu().save_model(tmp_path / "sae")
    sae = load_sae(tmp_path / "sae", device=CPU)
    assert (sae.trained_on, sae.architecture, made_by(tmp_path / "sae")) == (None, "jumprelu", None)


@pytest.mark.parametrize("release", ["gemma-scope-2b-pt-res", "no-such-release"])
def test_a_release_without_a_network_is_an_error_of_one_line(release):
    with pytest.raises(LabError, match=rf"cannot get SAE 'x' of release '{release}'") as caught:
        release_sae(release, "x", device=CPU)
    assert "\n" not in str(caught.value)


def test_a_registered_sae_needs_a_network():
    with pytest.raises(ModelError, match=r"cannot get SAE 'blocks.5.hook_resid_pre' of release 'gpt2-small-res-jb': "):
        release_sae("gpt2-small-res-jb", "blocks.5.hook_resid_pre", device=CPU)
