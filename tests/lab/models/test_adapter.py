"""An adapter that is merged computes what PEFT computes before merging, or it is refused in a sentence."""

import json
import shutil

import peft
import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file

from lab.models.load import load
from lab.models.source import AdapterModel
from lab.models.tiny import byte_tokenizer, tiny_network
from tests.lab.models.test_load import CPU, logits, refusal

# PEFT warns of tied matrices, of layers that it cannot merge, and of embeddings that it saves.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
WEIGHTS = "adapter_model.safetensors"


def network(family="llama", *, is_tied=True, d_vocab=258):
    made = tiny_network(family, seed=0)
    if is_tied:
        made.config.tie_word_embeddings = True
        made.tie_weights()
    return made if d_vocab == 258 else resized(made, d_vocab)


def resized(made, d_vocab):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made.resize_token_embeddings(d_vocab, mean_resizing=False)
    return made


def trained(path, config, base, **saving):
    """A directory with a base and an adapter of it with random weights; and PEFT's logits, not merged."""
    base.save_pretrained(path / "base")
    byte_tokenizer().save_pretrained(path / "base")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(base, config).eval()
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
    adapted.save_pretrained(path / "lora", **saving)
    changed(path, base_model_name_or_path="../base")
    return AdapterModel(path=path / "lora"), logits(adapted)


def changed(path, **fields):
    file = path / "lora" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def loaded(source, dtype=torch.float32):
    return load(source, device=CPU, dtype=dtype)


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["lm_head"]),
        LoraConfig(r=2, target_modules=["embed_tokens"]),
        LoraConfig(r=2, target_modules=["embed_tokens", "lm_head", "q_proj"], use_dora=True),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens"]),
        LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
        LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True),
        LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=[3, 5]),
        LoraConfig(r=2, target_modules="all-linear", use_rslora=True, rank_pattern={"q_proj": 4}),
        LoraConfig(r=2, target_modules=["o_proj"], alpha_pattern={"o_proj": 32}),
        LoraConfig(r=2, target_modules=["q_proj"], layer_replication=[(0, 2), (1, 2)]),
        LoraConfig(r=2, target_modules=["k_proj"], bias="all", layers_to_transform=[1]),
        IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    ],
    ids=lambda config: " ".join(map(str, [*sorted(config.target_modules), *(config.modules_to_save or [])])),
)  # fmt: skip
def test_an_adapter_of_a_tied_network_computes_what_it_does_before_merging(config, tmp_path):
    source, wanted = trained(tmp_path, config, network())
    model = loaded(source)
    torch.testing.assert_close(logits(model.network), wanted, atol=1e-3, rtol=1e-4)
    head, embed = model.network.get_output_embeddings().weight, model.network.get_input_embeddings().weight
    assert (head is embed) == model.network.config.tie_word_embeddings
    model.network.save_pretrained(tmp_path / "again")
    again = type(model.network).from_pretrained(tmp_path / "again")
    assert torch.equal(logits(again), logits(model.network))


def test_a_head_that_no_adapter_changes_stays_tied(tmp_path):
    source, _ = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"]), network())
    assert loaded(source).network.config.tie_word_embeddings


@pytest.mark.parametrize("fan_in_fan_out", [True, False])
def test_maps_that_are_stored_the_other_way_round_are_merged(fan_in_fan_out, tmp_path):
    config = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=fan_in_fan_out)
    source, wanted = trained(tmp_path, config, network("gpt2"))
    torch.testing.assert_close(logits(loaded(source).network), wanted, atol=1e-3, rtol=1e-4)


def test_what_is_merged_wrongly_is_refused(tmp_path, monkeypatch):
    source, _ = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"]), network())
    merge = peft.tuners.lora.LoraModel.merge_and_unload

    def wrongly(adapted):
        made = merge(adapted)
        made.model.layers[0].self_attn.q_proj.weight.data *= 1.01
        return made

    monkeypatch.setattr(peft.tuners.lora.LoraModel, "merge_and_unload", wrongly)
    assert "gives other logits than before: off by" in refusal(source)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_no_reason_to_refuse(dtype, tmp_path):
    source, _ = trained(tmp_path, LoraConfig(r=4, target_modules="all-linear", lora_alpha=32), network())
    assert loaded(source, dtype).dtype == dtype


@pytest.mark.parametrize(
    ("d_base", "d_vocab", "saving", "is_tied"),
    [(258, 262, {"save_embedding_layers": True}, True), (258, 262, {}, False), (300, 262, {}, True)],
)
def test_an_adapter_brings_the_rows_of_its_own_vocabulary(d_base, d_vocab, saving, is_tied, tmp_path):
    both = ["embed_tokens", "lm_head"]
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=None if saving else both)
    source, wanted = trained(tmp_path, config, network(is_tied=is_tied, d_vocab=d_vocab), **saving)
    network(is_tied=is_tied, d_vocab=d_base).save_pretrained(tmp_path / "base")
    model = loaded(source)
    assert model.anatomy.d_vocab == model.network.config.vocab_size == d_vocab
    torch.testing.assert_close(logits(model.network), wanted, atol=1e-3, rtol=1e-4)


def test_what_is_saved_twice_is_read_once_and_a_head_for_values_is_left(tmp_path):
    # So PEFT saves a vocabulary that grew and was trained.
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    source, wanted = trained(tmp_path, config, network(d_vocab=262), save_embedding_layers=True)
    network().save_pretrained(tmp_path / "base")
    tensors = load_file(source.path / WEIGHTS) | {"v_head.summary.weight": torch.zeros(1, 32)}
    save_file(tensors, source.path / WEIGHTS)
    torch.testing.assert_close(logits(loaded(source).network), wanted, atol=1e-3, rtol=1e-4)
    twice = "base_model.model.lm_head.modules_to_save.weight"
    save_file(tensors | {twice: tensors[twice] + 1}, source.path / WEIGHTS)
    assert twice in refusal(source)


@pytest.mark.parametrize("drawn", ["gaussian", "pissa"])
def test_how_the_weights_of_an_adapter_were_first_drawn_may_be_a_word(drawn, tmp_path):
    source, wanted = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=drawn), network())
    if drawn == "pissa":
        network().save_pretrained(tmp_path / "base")
    torch.testing.assert_close(logits(loaded(source).network), wanted, atol=1e-3, rtol=1e-4)
    changed(tmp_path, init_lora_weights="pissa_niter_4")
    assert "by chance" in refusal(source)


def test_rows_that_nobody_brings_are_refused(tmp_path):
    config = LoraConfig(r=2, target_modules=["lm_head"])
    source, _ = trained(tmp_path, config, network(d_vocab=262), save_embedding_layers=False)
    network().save_pretrained(tmp_path / "base")
    assert "holds values that are not finite" in refusal(source)


@pytest.mark.parametrize("narrower", [{"target_modules": ["q_proj"]}, {"layers_to_transform": [1]}])
def test_tensors_that_the_configuration_of_an_adapter_leaves_out_are_refused_by_name(narrower, tmp_path):
    source, _ = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj", "k_proj"]), network())
    changed(tmp_path, **narrower)
    said = refusal(source)
    assert "tensors for which its adapter_config.json has no place" in said
    assert "lora_A" in said


def test_an_adapter_that_changes_no_weights_or_cannot_be_merged_is_refused(tmp_path):
    trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True), network())
    assert "Impossible to merge LoRA with `lora_bias=True`" in refusal(AdapterModel(path=tmp_path / "lora"))
    shutil.rmtree(tmp_path / "lora")
    prompts = PromptTuningConfig(
        num_virtual_tokens=2, task_type="CAUSAL_LM", num_layers=2, token_dim=32, num_attention_heads=4
    )
    get_peft_model(network(is_tied=False), prompts).save_pretrained(tmp_path / "lora")
    changed(tmp_path, base_model_name_or_path="../base")
    assert "PROMPT_TUNING, which changes no weights" in refusal(AdapterModel(path=tmp_path / "lora"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 10**9),
        ("rank_pattern", {"q_proj": 10**9}),
        ("rank_pattern", [1]),
        ("layer_replication", [[0, 10**6]]),
        ("lora_alpha", float("nan")),
        ("lora_alpha", "x"),
        ("use_rslora", 1),
        ("base_model_name_or_path", "long" * 99),
        ("target_modules", "(("),
        ("peft_type", "NO_SUCH"),
        ("megatron_config", {"x": 1}),
    ],
)
def test_a_field_that_no_adapter_can_have_is_refused(field, value, tmp_path):
    source, _ = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"]), network())
    changed(tmp_path, **{field: value})
    assert str(source.path) in refusal(source)


def test_tensors_of_an_adapter_are_checked_as_those_of_a_model(tmp_path):
    source, _ = trained(tmp_path, LoraConfig(r=2, target_modules=["q_proj"]), network())
    file = source.path / WEIGHTS
    tensors, raw = load_file(file), file.read_bytes()
    name = next(iter(tensors))
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, file)
    assert "not finite" in refusal(source)
    save_file(tensors | {name: torch.ones(3, 3)}, file)
    assert "size mismatch" in refusal(source)
    file.write_bytes(raw.replace(b'"F32"', b'"I32"', 1))
    assert "is stored as I32" in refusal(source)
