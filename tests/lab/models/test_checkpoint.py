"""What a checkpoint's files say is checked against each other, and what is loaded is what is hashed."""

import json
import logging
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lab.models.checkpoint import require_finite
from lab.models.load import load
from lab.models.pair_check import read_checkpoint
from lab.models.source import HubModel, LocalModel, read_json
from lab.models.tiny import tiny_network
from lab.records.errors import ModelError
from tests.lab.models.test_load import CPU, logits, refusal, saved

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole")
    saved(path)
    return path


@pytest.fixture
def model(whole, tmp_path):
    """A directory with a whole model, to be changed."""
    return shutil.copytree(whole, tmp_path / "model")


def digest(path):
    return load(LocalModel(path=path), device=CPU, dtype=torch.float32).digest


def rewritten(path, change):
    """The weights of `path` with a change."""
    tensors = load_file(path / WHOLE)
    change(tensors)
    save_file(tensors, path / WHOLE, metadata={"format": "pt"})


def sharded(path, name):
    """The weights of `path` as one shard at `name`."""
    (path / name).parent.mkdir(exist_ok=True)
    names = list(load_file(path / WHOLE))
    (path / WHOLE).rename(path / name)
    (path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, name)}))


def configured(path, **fields):
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def test_a_shard_in_a_folder_is_loaded_and_hashed(model, whole):
    sharded(model, "sub/a.safetensors")
    before = load(LocalModel(path=model), device=CPU, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(whole)
    assert torch.equal(logits(before.network), logits(plain))
    tiny_network("llama", seed=1).save_pretrained(model / "other")
    shutil.move(model / "other" / WHOLE, model / "sub" / "a.safetensors")
    assert digest(model) != before.digest


def test_an_index_that_leads_out_of_its_directory_is_refused(model):
    for name in ("../a.safetensors", "sub/../../a.safetensors", str(model.parent / "a.safetensors")):
        copy = shutil.copytree(model, model.parent / "copy")
        sharded(copy, "sub/a.safetensors")
        shutil.copy(copy / "sub" / "a.safetensors", model.parent / "a.safetensors")
        (copy / INDEX).write_text((copy / INDEX).read_text().replace("sub/a.safetensors", name))
        assert f"names {name!r}, which is outside its directory" in refusal(LocalModel(path=copy))
        shutil.rmtree(copy)


def test_links_to_files_elsewhere_are_read_and_hashed_by_what_is_there(model, whole):
    blobs = model.parent / "blobs"
    shutil.move(model, blobs)
    model.mkdir()
    for file in blobs.iterdir():
        (model / file.name).symlink_to(file)
    assert digest(model) == digest(whole)


def test_an_index_of_files_that_are_not_there_or_hold_one_tensor_twice_is_refused(model):
    shutil.copy(model / WHOLE, model / "b.safetensors")
    sharded(model, "a.safetensors")
    index = json.loads((model / INDEX).read_text())
    index["weight_map"]["lm_head.weight"] = "b.safetensors"
    (model / INDEX).write_text(json.dumps(index))
    assert "a.safetensors and b.safetensors both hold" in refusal(LocalModel(path=model))
    (model / "b.safetensors").unlink()
    assert "names 'b.safetensors', which is not there" in refusal(LocalModel(path=model))
    (model / INDEX).write_text("{}")
    assert "no weight_map" in refusal(LocalModel(path=model))


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.bias", "model.layers.2.mlp.up_proj.weight", "model.extra.weight"]
)
def test_a_tensor_that_the_configuration_has_no_place_for_is_refused_by_name(model, name):
    rewritten(model, lambda tensors: tensors.update({name: torch.ones(64)}))
    _, report = AutoModelForCausalLM.from_pretrained(model, output_loading_info=True)
    assert report["unexpected_keys"] == {name}
    assert f"holds 1 tensors for which its config.json has no place: {name}" in refusal(LocalModel(path=model))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("v_head.summary.weight", torch.ones(1, 32)),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4)),
        ("model.layers.1.attn.masked_bias", torch.tensor(-1e4)),
        ("model.layers.1.attn.bias", torch.ones(1, 1, 8, 8, dtype=torch.bool)),
    ],
)
def test_a_head_for_values_rotary_frequencies_and_masks_may_stand_beside_the_decoder(model, whole, name, tensor):
    rewritten(model, lambda tensors: tensors.update({name: tensor}))
    plain = AutoModelForCausalLM.from_pretrained(whole)
    assert torch.equal(logits(load(LocalModel(path=model), device=CPU, dtype=torch.float32).network), logits(plain))


def test_a_tensor_whose_name_would_break_a_line_is_refused(model):
    rewritten(model, lambda tensors: tensors.update({"a\nb": torch.ones(2)}))
    assert r"holds a tensor 'a\nb'" in refusal(LocalModel(path=model))


def test_a_tensor_of_another_size_is_refused_with_both(model):
    configured(model, vocab_size=300)
    assert "258 x 32, and LlamaForCausalLM wants 300 x 32" in refusal(LocalModel(path=model))


def test_numbers_that_are_relabelled_are_refused(model):
    raw = (model / WHOLE).read_bytes()
    (model / WHOLE).write_bytes(raw.replace(b'"F32"', b'"I32"', 1))
    assert "is stored as I32; want one of F64, F32, F16, BF16" in refusal(LocalModel(path=model))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused_by_name(value, dtype):
    network = tiny_network("llama", seed=0).to(dtype)
    require_finite(network, "good")
    network.model.layers[1].mlp.up_proj.weight.data[37, 5] = value
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight of bad holds values that are not finite"):
        require_finite(network, "bad")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rms_norm_eps", "x"),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", -1e-5),
        ("rms_norm_eps", 1e300),
        ("hidden_size", "128"),
        ("num_attention_heads", 0),
        ("num_hidden_layers", 1_000_000),
        ("intermediate_size", 1_000_000_000),
        ("vocab_size", 10**400),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": float("inf")}),
        ("rope_parameters", {"rope_type": "no-such"}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": -2.0}),
        ("rope_parameters", {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0], "long_factor": [1.0]}),
        ("hidden_act", "no-such"),
    ],
)
def test_a_field_that_no_network_can_have_is_refused_at_once_naming_it(model, field, value):
    configured(model, **{field: value})
    start = time.monotonic()
    said = refusal(LocalModel(path=model))
    assert time.monotonic() - start < 20
    assert "config.json" in said
    assert any(word in said for word in (field, "no-such", "factor is", "gate_proj"))
    assert all(line.isprintable() for line in read_checkpoint(LocalModel(path=model)).refusals)
    assert read_checkpoint(LocalModel(path=model)).refusals


def test_what_transformers_warns_of_is_refused_though_its_warnings_are_silenced(model):
    configured(model, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": -2.0})
    logger = logging.getLogger("transformers.modeling_rope_utils")
    logging.disable(logging.CRITICAL)
    logger.disabled = True
    try:
        assert "factor field must be" in refusal(LocalModel(path=model))
        assert (logger.disabled, logging.root.manager.disable) == (True, logging.CRITICAL)
    finally:
        logging.disable(logging.NOTSET)
        logger.disabled = False


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b'{"x": ' + b"1" * 5000 + b"}", b'{"x": "\xff"}', b"[]", b"null", b""]
)
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_file_that_is_no_object_of_json_is_refused_by_name(model, name, text):
    (model / name).write_bytes(text)
    assert name in refusal(LocalModel(path=model))


@pytest.mark.parametrize("value", ["x", [1, "x"], True, 1.5, {}])
def test_an_end_that_is_no_token_is_refused(model, value):
    file = model / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token_id": value}))
    assert "says eos_token_id is" in refusal(LocalModel(path=model))


def test_a_limit_may_be_infinite_and_a_field_stands_once(tmp_path):
    (tmp_path / "a.json").write_text('{"time_step_limit": [0.0, Infinity]}')
    assert read_json(tmp_path / "a.json")["time_step_limit"] == [0.0, float("inf")]
    for text in ('{"a": NaN}', '{"a": [1, -Infinity]}', '{"a": {"b_limit": -Infinity}}', '{"a": 1e400}'):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ModelError, match="want a finite number"):
            read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(ModelError, match="says 'a' twice"):
        read_json(tmp_path / "a.json")


def test_small_files_from_the_hub_are_checked_without_the_shards_that_their_index_names(model, monkeypatch):
    from lab.models import pair_check

    sharded(model, "a.safetensors")
    (model / "a.safetensors").unlink()
    monkeypatch.setattr(pair_check, "downloaded", lambda *_, **__: model)
    assert read_checkpoint(HubModel(name="org/name")).refusals == ()
    configured(model, num_hidden_layers=1_000_000)
    assert "num_hidden_layers is 1,000,000" in read_checkpoint(HubModel(name="org/name")).refusals[0]


def test_matrices_that_differ_are_not_tied_whatever_the_configuration_says(model, whole):
    configured(model, tie_word_embeddings=True)
    found = load(LocalModel(path=model), device=CPU, dtype=torch.float32).network
    assert torch.equal(logits(found), logits(AutoModelForCausalLM.from_pretrained(whole)))
    assert not found.config.tie_word_embeddings


def test_a_row_for_padding_beyond_the_embedding_is_not_needed(model, whole):
    configured(model, pad_token_id=100_000)
    plain = AutoModelForCausalLM.from_pretrained(whole)
    assert torch.equal(logits(load(LocalModel(path=model), device=CPU, dtype=torch.float32).network), logits(plain))
