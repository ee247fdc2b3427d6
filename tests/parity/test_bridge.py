"""Parity with TransformerLens: the bridge reads the same residual stream as the plain network."""

import pytest
import torch

from lab.models.bridge import to_bridge
from lab.models.tiny import FAMILIES, tiny_model

TEXTS = ["<6-0-4+8?", "T6-0=6;6-4=2;"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bridge_reads_the_hidden_states_of_the_plain_network(family):
    model = tiny_model(family, seed=3)
    model.network.set_attn_implementation("eager")
    tokens = model.tokenizer(TEXTS, return_tensors="pt", padding=True)
    # GPT-2 itself does not shift its position embeddings past left padding; the bridge, and our sampler, do.
    positions = (tokens.attention_mask.cumsum(dim=-1) - 1).clamp(min=0)
    expected = model.network(**tokens, position_ids=positions, output_hidden_states=True)
    _, cache = to_bridge(model).run_with_cache(tokens.input_ids, attention_mask=tokens.attention_mask)
    mask = tokens.attention_mask.bool()
    # The last of transformers' hidden states is after the final norm, so blocks are compared up to the one before.
    for layer in range(model.anatomy.n_layers - 1):
        torch.testing.assert_close(
            cache[f"blocks.{layer}.hook_out"][mask], expected.hidden_states[layer + 1][mask], atol=1e-5, rtol=1e-5
        )
    last = cache[f"blocks.{model.anatomy.n_layers - 1}.hook_out"]
    torch.testing.assert_close(
        model.anatomy.final_norm(last)[mask], expected.hidden_states[-1][mask], atol=1e-5, rtol=1e-5
    )


def test_bridging_leaves_the_model_as_it_was():
    model = tiny_model("llama", seed=4)
    tokens = model.tokenizer(TEXTS, return_tensors="pt", padding=True)
    before = model.network(**tokens).logits
    blocks = [type(block) for block in model.network.model.layers]
    vocabulary = model.tokenizer.get_vocab()
    to_bridge(model).run_with_cache(tokens.input_ids, attention_mask=tokens.attention_mask)
    assert torch.equal(model.network(**tokens).logits, before)
    assert [type(block) for block in model.network.model.layers] == blocks
    assert model.tokenizer.get_vocab() == vocabulary
    assert model.network.config._attn_implementation == "sdpa"


def test_a_bridge_carries_no_parameter_gradients():
    bridge = to_bridge(tiny_model("qwen3", seed=5))
    assert not any(parameter.requires_grad for parameter in bridge.parameters())
