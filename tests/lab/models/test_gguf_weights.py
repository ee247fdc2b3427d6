"""GGUF in: a tiny Llama written with the gguf package reads back as the network it was written from."""

import copy
import math

import gguf
import numpy as np
import pytest
import torch

from lab.models.gguf_weights import read_gguf, read_gguf_header
from lab.models.load import load
from lab.models.source import LocalModel, model_source
from lab.models.tiny import byte_tokenizer, tiny_network
from lab.records.errors import ModelError

CPU = torch.device("cpu")
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}


def interleaved(weight, n_heads):
    """llama.cpp keeps the two halves of each rotary pair next to each other, transformers half a head apart."""
    d_out, d_in = weight.shape
    return weight.reshape(n_heads, 2, d_out // n_heads // 2, d_in).swapaxes(1, 2).reshape(d_out, d_in)


def write_gguf(path, network, *, extra_tensor=None, without=None, pre="gpt-2", said=None, merges=()):
    config = network.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(byte_tokenizer().get_vocab().items(), key=lambda item: item[1])
    for key, value in (said or {}).items():
        kinds = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}
        kinds[type(value)](f"llama.{key}", value)
    writer.add_tokenizer_model("gpt2")
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * 2)
    if merges:
        writer.add_token_merges(merges)
    writer.add_pad_token_id(256)
    writer.add_eos_token_id(257)
    writer.add_bos_token_id(257)
    for name, tensor in network.state_dict().items():
        weight = tensor.numpy()
        if "q_proj" in name:
            weight = interleaved(weight, config.num_attention_heads)
        if "k_proj" in name:
            weight = interleaved(weight, config.num_key_value_heads)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        if name != without:
            writer.add_tensor(name, np.ascontiguousarray(weight))
    if extra_tensor is not None:
        writer.add_tensor(extra_tensor, np.ones(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    network = tiny_network("llama", seed=11)
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, network)
    return network, path


def test_a_gguf_file_gives_the_logits_of_the_network_it_was_written_from(written):
    network, path = written
    model = load(model_source(str(path)), device=CPU, dtype=torch.float32)
    tokens = model.tokenizer("<6-0-4+8?", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(model.network(tokens).logits, network(tokens).logits, atol=1e-5, rtol=1e-5)
    assert model.anatomy.n_layers == 2
    assert not any(parameter.requires_grad for parameter in model.network.parameters())


def test_a_gguf_file_gives_the_tokenizer_it_was_written_with(written):
    _, path = written
    read = read_gguf(path, dtype=torch.float32).tokenizer
    text = "T6-0=6; ünïcode 🙂"
    assert read(text, add_special_tokens=False).input_ids == byte_tokenizer()(text).input_ids
    assert (read.pad_token_id, read.eos_token_id) == (256, 257)


def test_a_network_read_from_gguf_can_be_saved_and_loaded_as_safetensors(written, tmp_path):
    _, path = written
    network, tokenizer = read_gguf(path, dtype=torch.float32)
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load(LocalModel(path=tmp_path), device=CPU, dtype=torch.float32)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again.network(tokens).logits, network(tokens).logits)


def test_a_gguf_file_read_in_bfloat16_has_bfloat16_weights_and_float32_rotary_frequencies(written):
    _, path = written
    network = read_gguf(path, dtype=torch.bfloat16).network
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in network.buffers()} == {torch.float32}


def test_a_file_that_only_ends_in_gguf_is_refused(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        read_gguf(path, dtype=torch.float32)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_gguf_file_cut_short_is_refused_in_one_line(written, tmp_path, share):
    data = written[1].read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ModelError) as caught:
        read_gguf(path, dtype=torch.float32)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_whose_rotary_scaling_transformers_would_ignore_is_refused(tmp_path):
    path = tmp_path / "scaled.gguf"
    write_gguf(path, tiny_network("llama", seed=11), extra_tensor="rope_freqs.weight")
    with pytest.raises(ModelError, match="rotary"):
        read_gguf(path, dtype=torch.float32)


def test_a_gguf_file_that_lacks_a_tensor_is_refused(tmp_path):
    path = tmp_path / "holed.gguf"
    write_gguf(path, tiny_network("llama", seed=11), without="blk.1.ffn_up.weight")
    with pytest.raises(ModelError, match=r"lacks 1 tensors.*layers\.1\.mlp\.up_proj"):
        read_gguf(path, dtype=torch.float32)


def test_a_missing_gguf_file_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no GGUF file"):
        read_gguf(tmp_path / "none.gguf", dtype=torch.float32)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SAYS_YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 64,
}
LINEAR = {"rope_type": "linear", "factor": 4.0}
ROTARY = {
    "linear": (LINEAR, {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
    "a factor alone": (LINEAR, {"rope.scaling.factor": 4.0}),
    "the old key": (LINEAR, {"rope.scale_linear": 4.0}),
    "none beside a factor": (
        {"rope_type": "default"},
        {"rope.scaling.type": "none", "rope.scaling.factor": 4.0},
    ),
    "yarn": (YARN, SAYS_YARN),
    "yarn whose factor is halved": (
        {**YARN, "attention_factor": 0.5 * (1 + 0.1 * math.log(4))},
        {**SAYS_YARN, "rope.scaling.attn_factor": 0.5},
    ),
}
AS_CONVERTED = {
    "beta_fast": (16.0, "rope.scaling.yarn_beta_fast"),
    "beta_slow": (2.0, "rope.scaling.yarn_beta_slow"),
    "attention_factor": (0.7, "rope.scaling.yarn_attn_factor"),
}
# llama.cpp passes over these.
BY_TRANSFORMERS = {
    **ROTARY,
    "yarn with numbers of its own": (
        YARN | {name: value for name, (value, _) in AS_CONVERTED.items()},
        SAYS_YARN | {key: value for value, key in AS_CONVERTED.values()},
    ),
}


def scaled(rotary):
    """The tiny network with its rotary frequencies scaled as transformers does it from a configuration."""
    plain = tiny_network("llama", seed=11)
    config = copy.deepcopy(plain.config)
    config.rope_parameters = {**config.rope_parameters, **rotary}
    network = type(plain)(config).eval()
    network.load_state_dict(plain.state_dict())
    return network


@pytest.mark.parametrize("kind", BY_TRANSFORMERS)
def test_the_scaling_of_rotary_frequencies_that_a_file_says_is_that_of_transformers(kind, written, tmp_path):
    rotary, said = BY_TRANSFORMERS[kind]
    write_gguf(tmp_path / "x.gguf", written[0], said=said)
    read, wanted = read_gguf(tmp_path / "x.gguf", dtype=torch.float32).network, scaled(rotary)
    tokens = torch.arange(200)[None]
    with torch.no_grad():
        logits = read(tokens).logits
        torch.testing.assert_close(logits, wanted(tokens).logits, atol=1e-4, rtol=1e-4)
        assert kind == "none beside a factor" or not torch.allclose(logits, written[0](tokens).logits, atol=1e-2)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}, "by 'longrope'; want linear or yarn"),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": -1.0}, "by -1.0; want a factor above 0"),
        (
            {"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_log_multiplier": 0.1},
            "yarn_log_multiplier, which has no counterpart",
        ),
        (SAYS_YARN | {"rope.scaling.yarn_beta_fast": "16"}, "with beta_fast '16'; want a finite number"),
        (SAYS_YARN | {"rope.scaling.attn_factor": float("nan")}, "attn_factor nan; want a finite number"),
        ({"attention.key_length": 16}, "attention.key_length 16, for which transformers has head_dim 8"),
        ({"residual_scale": 0.22}, "residual_scale 0.2.*, for which transformers has nothing"),
    ],
)
def test_what_transformers_would_pass_over_is_refused_by_name(said, words, written, tmp_path):
    write_gguf(tmp_path / "x.gguf", written[0], said=said)
    with pytest.raises(ModelError, match=words):
        read_gguf(tmp_path / "x.gguf", dtype=torch.float32)


def test_a_rule_of_splitting_text_that_nobody_knows_is_refused(written, tmp_path):
    write_gguf(tmp_path / "x.gguf", written[0], pre="nonesuch")
    with pytest.raises(ModelError, match=r"splits text by the rule 'nonesuch'.*smollm"):
        read_gguf_header(tmp_path / "x.gguf")


def test_a_number_that_is_not_finite_is_refused_by_its_tensor(written, tmp_path):
    network = copy.deepcopy(written[0])
    network.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    write_gguf(tmp_path / "x.gguf", network)
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight of .* holds values that are not finite"
    ):
        read_gguf(tmp_path / "x.gguf", dtype=torch.float32)


@pytest.mark.parametrize("at", [8, 16, "tokenizer.ggml.tokens"])
def test_a_header_that_counts_more_than_the_file_holds_is_refused_at_once(at, written, tmp_path):
    data = bytearray(written[1].read_bytes())
    # Behind the name of an array stand its kind, the kind of its items and their number.
    place = at if isinstance(at, int) else data.index(at.encode()) + len(at) + 8
    data[place : place + 8] = (2**33).to_bytes(8, "little")
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(
        ModelError, match=r"not a whole GGUF file: ValueError: its header counts 8,589,934,592, and it has"
    ):
        read_gguf_header(tmp_path / "x.gguf")
