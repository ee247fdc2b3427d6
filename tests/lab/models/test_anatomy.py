"""Every family's parts are where its layout says, and a missing part is named."""

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from lab.models.anatomy import LAYOUTS, NORMED_ATTENTION, find_anatomy
from lab.models.tiny import FAMILIES, tiny_network
from lab.records.errors import ModelError

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def outputs(network, modules):
    """What each module returned in one forward pass over TOKENS, and the pass's own result."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _module, _inputs, output, name=name: seen.__setitem__(name, output))
        for name, module in modules.items()
    ]
    with torch.no_grad():
        result = network(TOKENS, output_hidden_states=True)
    for hook in hooks:
        hook.remove()
    return seen, result


def test_every_layout_is_tested_on_a_tiny_network():
    assert set(FAMILIES) == set(LAYOUTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_in_order_give_the_hidden_states_and_the_end_gives_the_logits(family):
    network = tiny_network(family, seed=0)
    anatomy = find_anatomy(network)
    assert (anatomy.family, anatomy.n_layers, anatomy.d_model, anatomy.d_vocab) == (family, 2, 32, 258)
    names = {"block 0": anatomy.blocks[0], "block 1": anatomy.blocks[1], "norm": anatomy.final_norm}
    seen, result = outputs(network, names)
    assert torch.equal(seen["block 0"], result.hidden_states[1])
    assert torch.equal(seen["norm"], result.hidden_states[-1])
    assert torch.equal(anatomy.final_norm(seen["block 1"]), seen["norm"])
    logits = anatomy.unembed(seen["norm"])
    if network.config.model_type == "gemma2":
        logits = torch.tanh(logits / network.config.final_logit_softcapping) * network.config.final_logit_softcapping
    torch.testing.assert_close(logits, result.logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_and_mlp_add_up_to_what_their_block_adds(family):
    network = tiny_network(family, seed=0)
    anatomy = find_anatomy(network)
    block = anatomy.blocks[1]
    names = {"attention": anatomy.attentions[1], "mlp": anatomy.mlps[1], "in": anatomy.blocks[0], "out": block}
    seen, _ = outputs(network, names)
    attention, mlp = seen["attention"][0], seen["mlp"]
    if family in NORMED_ATTENTION:
        attention, mlp = block.post_attention_layernorm(attention), block.post_feedforward_layernorm(mlp)
    torch.testing.assert_close(seen["in"] + attention + mlp, seen["out"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedding_takes_token_ids_to_the_stream(family):
    anatomy = find_anatomy(tiny_network(family, seed=0))
    assert anatomy.embed(TOKENS).shape == (1, 8, 32)


def test_a_missing_part_is_named_with_its_path_and_class():
    network = tiny_network("llama", seed=0)
    del network.model.layers[1].mlp
    with pytest.raises(ModelError, match=r"LlamaForCausalLM has no MLP of block 1 at 'mlp'"):
        find_anatomy(network)


def test_an_unknown_family_is_named_beside_the_known_ones():
    network = MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, state_size=2))
    with pytest.raises(ModelError, match=r"MambaForCausalLM is of family 'mamba'.*llama, mistral"):
        find_anatomy(network)
