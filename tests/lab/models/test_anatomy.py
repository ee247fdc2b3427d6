"""Every family's parts are found, do what is said of them, and a network that is none of blocks is refused."""

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

from lab.models.anatomy import find_anatomy
from lab.models.tiny import FAMILIES, tiny_network
from lab.records.errors import ModelError

NORMED = ("olmo2", "olmo3", "gemma2", "gemma3_text")
"""What attention adds goes through a norm of its own first."""
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
    assert anatomy.has_resid_mid == (family not in (*NORMED, "gpt_neox"))
    if family in NORMED:
        norms = (block.get_submodule(f"post_{name}_layernorm") for name in ("attention", "feedforward"))
        attention, mlp = (norm(added) for norm, added in zip(norms, (attention, mlp), strict=True))
    torch.testing.assert_close(seen["in"] + attention + mlp, seen["out"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_embedding_takes_token_ids_to_the_stream(family):
    anatomy = find_anatomy(tiny_network(family, seed=0))
    assert anatomy.embed(TOKENS).shape == (1, 8, 32)


def test_without_numbers_the_same_parts_are_found():
    with torch.device("meta"):
        network = tiny_network("qwen3_moe", seed=0)
    anatomy = find_anatomy(network)
    assert (anatomy.n_layers, anatomy.d_model, anatomy.d_vocab, anatomy.has_resid_mid) == (2, 32, 258, False)
    assert [router is None for router in anatomy.routers] == [False, False]


def test_a_network_without_its_list_of_blocks_is_refused():
    network = tiny_network("llama", seed=0)
    network.config.num_hidden_layers = 3
    with pytest.raises(ModelError, match=r"no list of 3 decoder blocks \(lists of modules: layers of 2\)"):
        find_anatomy(network)


def test_what_is_done_to_the_stream_between_blocks_is_refused():
    network = tiny_network("llama", seed=0)
    network.model.layers[1].register_forward_pre_hook(lambda _, args: (2 * args[0], *args[1:]))
    with pytest.raises(ModelError, match="something is done to the stream between its blocks"):
        find_anatomy(network)


def test_a_model_whose_tokens_see_later_ones_is_refused():
    config = BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=64)
    with pytest.raises(ModelError, match="BertLMHeadModel is of family 'bert', which is not served"):
        find_anatomy(BertLMHeadModel(config))
