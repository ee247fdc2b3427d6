"""A pair shares shape and vocabulary, or the error says which differs and how."""

import json
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lab.models.load import assemble
from lab.models.pair import ModelPair, renamed_tokens
from lab.models.tiny import EOS, byte_tokenizer, tiny_model, tiny_network
from lab.records.errors import ModelError
from tests.real import real_tokenizer


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
    ],
)
def test_a_difference_in_shape_is_named_with_both_values(shape, message):
    tuned = assemble(tiny_network("llama", seed=1, **shape), byte_tokenizer(), name="tuned")
    with pytest.raises(ModelError, match=message):
        ModelPair(base=tiny_model("llama", seed=0), tuned=tuned)


def with_tokens(*tokens, d_vocab=300):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(list(tokens))
    return assemble(tiny_network("llama", seed=1, d_vocab=d_vocab), tokenizer, name="tuned")


def test_special_tokens_may_be_renamed_or_added_and_are_told():
    base = assemble(tiny_network("llama", seed=0, d_vocab=300), byte_tokenizer(), name="base")
    assert ModelPair(base=base, tuned=with_tokens("<think>")).renamed == ((258, None, "<think>"),)
    renamed = ModelPair(base=with_tokens("<|im_start|>"), tuned=with_tokens("<think>")).renamed
    assert renamed == ((258, "<|im_start|>", "<think>"),)


def test_the_tokens_of_a_pair_are_those_that_both_models_have():
    assert ModelPair(base=tiny_model("llama", seed=0), tuned=with_tokens("<think>")).d_vocab == 258


def other_bytes():
    """The byte tokenizer with two letters exchanged."""
    tokenizer = byte_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = state["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), pad_token="<|pad|>", eos_token="<|eos|>"
    )


def test_tokenizers_that_read_texts_differently_are_refused_with_what_differs():
    tuned = assemble(tiny_network("llama", seed=1), other_bytes(), name="tuned")
    with pytest.raises(ModelError, match=r"are not a pair: 2 tokens differ .* 97 \('a' and 'b'\), 98 \('b' and 'a'\)"):
        ModelPair(base=tiny_model("llama", seed=0), tuned=tuned)


def test_a_text_of_a_pair_ends_at_an_end_of_either():
    base, tuned = tiny_model("llama", seed=0), tiny_model("llama", seed=1)
    pair = ModelPair(base=base, tuned=replace(tuned, ends=frozenset({7})))
    assert pair.base.ends == pair.tuned.ends == {7, EOS}


@pytest.mark.real_data
def test_a_distilled_model_reads_as_its_base_does_under_other_names():
    names = ("Qwen2.5-Math-7B", "DeepSeek-R1-Distill-Qwen-7B")
    renamed = renamed_tokens(*map(real_tokenizer, names))
    assert [one.token for one in renamed] == list(range(151643, 151650))
    assert renamed[5] == (151648, "<|box_start|>", "<think>")


@pytest.mark.real_data
def test_models_of_two_families_do_not_read_alike():
    with pytest.raises(ModelError, match="tokens differ between base and tuned model"):
        renamed_tokens(real_tokenizer("Qwen2.5-7B"), real_tokenizer("OLMo-2-0425-1B"))


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
