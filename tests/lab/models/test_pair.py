"""A pair shares shape and vocabulary, or the error says which differs and how."""

import pytest
import torch

from lab.models.load import ModelPair, assemble
from lab.models.tiny import byte_tokenizer, tiny_model, tiny_network
from lab.records.errors import ModelError


def test_two_networks_of_one_shape_are_a_pair():
    base, tuned = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    pair = ModelPair(base=base, tuned=tuned)
    assert pair.base is base
    assert pair.tuned is tuned


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"d_model": 16}, "d_model is 32 in the base and 16 in the tuned model"),
        ({"n_layers": 3}, "n_layers is 2 in the base and 3 in the tuned model"),
        ({"d_vocab": 300}, "d_vocab is 258 in the base and 300 in the tuned model"),
    ],
)
def test_a_difference_in_shape_is_named_with_both_values(shape, message):
    tuned = assemble(tiny_network("llama", seed=1, **shape), byte_tokenizer(), name="tuned")
    with pytest.raises(ModelError, match=message):
        ModelPair(base=tiny_model("llama", seed=0), tuned=tuned)


def test_a_token_that_only_one_vocabulary_has_is_named():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<think>"])
    tuned = assemble(tiny_network("llama", seed=1), tokenizer, name="tuned")
    with pytest.raises(ModelError, match="1 tokens differ; '<think>' is absent in the base and 258 in the tuned model"):
        ModelPair(base=tiny_model("llama", seed=0), tuned=tuned)


def test_a_model_is_a_pair_with_itself_and_the_refusal_is_symmetric():
    small, large = tiny_model("gpt2", seed=0), tiny_model("gpt2", seed=0, n_layers=3)
    ModelPair(base=small, tuned=small)
    for base, tuned in ((small, large), (large, small)):
        with pytest.raises(ModelError, match="n_layers"):
            ModelPair(base=base, tuned=tuned)


def test_dtypes_may_differ_within_a_pair():
    tuned = tiny_model("llama", seed=1)
    tuned.network.to(torch.bfloat16)
    assert ModelPair(base=tiny_model("llama", seed=0), tuned=tuned).tuned.dtype == torch.bfloat16
