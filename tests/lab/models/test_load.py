"""Loading reads only safetensors, opens no connection for what is local, and refuses the rest in one line."""

import json
import shutil
import socket

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lab.models import source as sources
from lab.models.load import assemble, load
from lab.models.source import AdapterModel, BuiltInModel, HubModel, LocalModel
from lab.models.tiny import FAMILIES, byte_tokenizer, tiny_model, tiny_network
from lab.records.errors import ModelError

CPU = torch.device("cpu")
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.fixture(autouse=True)
def no_socket(monkeypatch):
    """Every attempt to connect fails the test."""

    def refuse(*arguments, **options):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def saved(path, family="llama", seed=0):
    network = tiny_network(family, seed=seed)
    network.save_pretrained(path)
    byte_tokenizer().save_pretrained(path)
    return network


def saved_adapter(path, base, base_name, seed=0):
    """A LoRA adapter with random weights over `base`; returns the adapted network, unmerged."""
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        adapted = get_peft_model(base, config)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(path)
    # PEFT writes the name that the base network itself remembers.
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base_name}))
    return adapted


def logits(network):
    with torch.no_grad():
        return network(TOKENS).logits


def refusal(source):
    with pytest.raises(ModelError) as caught:
        load(source, device=CPU, dtype=torch.float32)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_saved_is_loaded_frozen_in_eval_mode_without_a_connection(tmp_path, family):
    network = saved(tmp_path, family)
    model = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32)
    assert torch.equal(logits(model.network), logits(network))
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert (model.device, model.dtype, model.name) == (CPU, torch.float32, str(tmp_path))
    # Gemma 2 caps its attention scores, which sdpa cannot.
    assert model.network.config._attn_implementation == ("eager" if family == "gemma2" else "sdpa")


def test_the_dtype_is_the_one_asked_for(tmp_path):
    saved(tmp_path)
    model = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}


def test_an_organism_is_loaded_by_name(tmp_path, monkeypatch):
    network = saved(tmp_path / "zero-base")
    monkeypatch.setattr(sources, "SHIPPED", tmp_path)
    model = load(BuiltInModel(name="zero-base"), device=CPU, dtype=torch.float32)
    assert model.name == "zero-base"
    assert torch.equal(logits(model.network), logits(network))


def test_the_digest_follows_the_content_and_not_the_place(tmp_path):
    saved(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    saved(tmp_path / "c", seed=1)
    a, b, c = (load(LocalModel(path=tmp_path / name), device=CPU, dtype=torch.float32).digest for name in "abc")
    assert a == b != c
    assert len(a) == 16


def test_the_digest_of_a_network_in_memory_follows_its_tensors():
    before = tiny_model("llama", seed=0)
    with torch.no_grad():
        before.network.model.norm.weight[0] += 1
    assert assemble(before.network, before.tokenizer, name="changed").digest != before.digest


def test_a_tokenizer_without_padding_pads_on_the_left_with_its_end_token(tmp_path):
    tiny_network("llama", seed=0).save_pretrained(tmp_path)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(tmp_path)
    tokenizer = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32).tokenizer
    assert tokenizer(["a", "ab"], padding=True).input_ids == [[tokenizer.eos_token_id, 97], [97, 98]]


def test_a_tokenizer_that_can_neither_pad_nor_end_is_refused():
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = None
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="neither a pad nor an end token"):
        assemble(tiny_network("llama", seed=0), tokenizer, name="mute")


def test_an_adapter_gives_the_network_with_its_changes_merged(tmp_path):
    base = saved(tmp_path / "base")
    adapted = saved_adapter(tmp_path / "lora", base, "../base")
    model = load(AdapterModel(path=tmp_path / "lora"), device=CPU, dtype=torch.float32)
    torch.testing.assert_close(logits(model.network), logits(adapted), atol=1e-5, rtol=1e-5)
    assert type(model.network).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name in model.network.state_dict())
    plain = load(LocalModel(path=tmp_path / "base"), device=CPU, dtype=torch.float32)
    assert model.digest != plain.digest
    assert (logits(model.network) - logits(plain.network)).abs().max() > 0.1


def test_an_adapter_brings_its_own_tokenizer_where_it_has_one(tmp_path):
    saved_adapter(tmp_path / "lora", saved(tmp_path / "base"), "../base")
    plain = load(AdapterModel(path=tmp_path / "lora"), device=CPU, dtype=torch.float32)
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(tmp_path / "lora")
    model = load(AdapterModel(path=tmp_path / "lora"), device=CPU, dtype=torch.float32)
    assert plain.tokenizer.chat_template is None
    assert model.tokenizer.chat_template == tokenizer.chat_template
    assert model.digest != plain.digest


def test_files_that_no_output_depends_on_leave_the_digest_as_it_was(tmp_path):
    saved(tmp_path)
    before = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32).digest
    (tmp_path / "card.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    assert load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32).digest == before


def test_adapters_stack(tmp_path):
    saved(tmp_path / "base")
    saved_adapter(tmp_path / "first", saved(tmp_path / "scratch"), "../base", seed=1)
    middle = load(AdapterModel(path=tmp_path / "first"), device=CPU, dtype=torch.float32).network
    adapted = saved_adapter(tmp_path / "second", middle, "../first", seed=2)
    model = load(AdapterModel(path=tmp_path / "second"), device=CPU, dtype=torch.float32)
    torch.testing.assert_close(logits(model.network), logits(adapted), atol=1e-5, rtol=1e-5)


def test_an_adapter_with_a_tensor_missing_is_refused(tmp_path):
    saved_adapter(tmp_path / "lora", saved(tmp_path / "base"), "../base")
    file = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[next(name for name in tensors if "layers.1" in name and "lora_B" in name)]
    save_file(tensors, file)
    assert "lora_B" in refusal(AdapterModel(path=tmp_path / "lora"))


def test_pickled_adapter_weights_are_refused(tmp_path):
    saved_adapter(tmp_path / "lora", saved(tmp_path / "base"), "../base")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    assert "only pickled weights (adapter_model.bin)" in refusal(AdapterModel(path=tmp_path / "lora"))


def test_pickled_adapter_weights_are_refused_beside_other_safetensors(tmp_path):
    saved_adapter(tmp_path / "lora", saved(tmp_path / "base"), "../base")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "other.safetensors")
    assert "has no weights: want adapter_model.safetensors" in refusal(AdapterModel(path=tmp_path / "lora"))
    (tmp_path / "lora" / "adapter_model.bin").write_bytes(b"pickle")
    assert "only pickled weights (adapter_model.bin)" in refusal(AdapterModel(path=tmp_path / "lora"))


def test_pickled_weights_are_refused_beside_other_safetensors(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    assert "only pickled weights (pytorch_model.bin)" in refusal(LocalModel(path=tmp_path))


@pytest.mark.parametrize("name", ["adapter_model.bin", "pytorch_model.bin", "other.safetensors"])
def test_a_configuration_that_names_another_weights_file_is_refused(tmp_path, name):
    saved(tmp_path)
    (tmp_path / name).write_bytes(b"pickle")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"transformers_weights": name}))
    assert f"names the weights '{name}'" in refusal(LocalModel(path=tmp_path))


def test_shards_are_loaded_and_an_index_of_pickled_ones_is_refused(tmp_path):
    network = tiny_network("llama", seed=0)
    network.save_pretrained(tmp_path, max_shard_size="20KB")
    byte_tokenizer().save_pretrained(tmp_path)
    model = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32)
    assert torch.equal(logits(model.network), logits(network))
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(file.read_text().replace(".safetensors", ".bin"))
    assert "shards that are not safetensors" in refusal(LocalModel(path=tmp_path))


def test_a_model_with_an_adapter_beside_it_is_not_read_as_its_base(tmp_path):
    saved(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds an adapter beside its model" in refusal(LocalModel(path=tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "only pickled weights (pytorch_model.bin)" in refusal(LocalModel(path=tmp_path))


def test_a_missing_directory_an_empty_one_and_one_without_weights_are_refused(tmp_path):
    assert "no directory at" in refusal(LocalModel(path=tmp_path / "gone"))
    assert "no config.json" in refusal(LocalModel(path=tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert "no weights" in refusal(LocalModel(path=tmp_path))


@pytest.mark.parametrize("text", ["{", "{}", '{"model_type": "no-such"}', '{"model_type": "t5"}'])
def test_a_configuration_that_is_no_decoders_is_refused(tmp_path, text):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(text)
    assert "config.json" in refusal(LocalModel(path=tmp_path))


def test_a_configuration_that_asks_for_code_from_its_repository_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}})
    )
    (tmp_path / "code.py").write_text("raise SystemExit('code ran')")
    assert "code that a model brings is never run" in refusal(LocalModel(path=tmp_path))


def test_damaged_weights_are_refused(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    assert "SafetensorError" in refusal(LocalModel(path=tmp_path))


def test_weights_that_lack_a_tensor_are_refused_instead_of_drawn_at_random(tmp_path):
    saved(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "lack 1 tensors of LlamaForCausalLM: model.layers.1.mlp.up_proj.weight" in refusal(LocalModel(path=tmp_path))


def test_a_model_without_a_tokenizer_is_refused(tmp_path):
    tiny_network("llama", seed=0).save_pretrained(tmp_path)
    assert "cannot load the tokenizer" in refusal(LocalModel(path=tmp_path))


def test_a_hub_model_that_cannot_be_reached_is_refused_by_name():
    assert "cannot get 'no-org/no-model' from the hub" in refusal(HubModel(name="no-org/no-model"))


def test_a_hub_model_is_read_from_its_snapshot_without_code_or_pickles(tmp_path, monkeypatch):
    import huggingface_hub

    network = saved(tmp_path)
    asked = {}

    def download(name, *, revision, allow_patterns, ignore_patterns):
        asked.update(name=name, revision=revision, allow=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    model = load(HubModel(name="org/name", revision="main"), device=CPU, dtype=torch.float32)
    assert model.name == "org/name@main"
    assert torch.equal(logits(model.network), logits(network))
    assert asked["name"] == "org/name"
    assert not any(pattern.endswith((".py", ".bin", ".pt")) for pattern in asked["allow"])


def test_residuals_of_some_positions_reach_the_product_of_the_unembedding_in_one_piece():
    model = tiny_model()
    tokens, seen, product = torch.arange(24).reshape(2, 12), [], torch.nn.Linear.forward
    plain = model.network(tokens).logits[:, -3:]

    def watched(linear, x):
        if linear is model.anatomy.unembed:
            seen.append(x.is_contiguous())
        return product(linear, x)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.Linear, "forward", watched)
        kept = model.network(tokens, logits_to_keep=3).logits
    assert seen == [True]
    torch.testing.assert_close(kept, plain)
