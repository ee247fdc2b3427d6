"""A window says where tokens stand in their texts, however a network is called."""

import pytest
import torch

from lab.models.tiny import tiny_network
from lab.records.errors import SiteError
from lab.sampling.cache import RoomyCache
from steering.gate import window_of

TOKENS = torch.tensor([[256, 256, 7], [3, 4, 5]])
MASK = torch.tensor([[0, 0, 1], [1, 1, 1]])
PLACES = [[0, 0, 0], [0, 1, 2]]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def network(request):
    return tiny_network(request.param, seed=0)


def positions(network, *args, **kwargs):
    read = window_of(network, args, kwargs, None).positions
    return None if read is None else read.tolist()


def lengths(network, kwargs, n_prompt):
    read = window_of(network, (), kwargs, n_prompt).n_prompt
    return None if read is None else read.tolist()


def test_positions_are_those_that_the_call_names(network):
    named = torch.tensor([[0, 0, 9], [5, 6, 7]])
    assert positions(network, input_ids=TOKENS, position_ids=named, attention_mask=MASK) == named.tolist()
    assert positions(network, input_ids=TOKENS, position_ids=torch.tensor([[4, 5, 6]])) == [[4, 5, 6], [4, 5, 6]]


def test_positions_follow_from_the_mask_where_none_are_named(network):
    assert positions(network, input_ids=TOKENS, attention_mask=MASK) == PLACES
    assert positions(network, inputs_embeds=torch.zeros(2, 3, 4), attention_mask=MASK.bool()) == PLACES


def test_a_pass_that_goes_on_from_a_cache_reads_the_last_positions_of_its_mask(network):
    assert positions(network, input_ids=TOKENS[:, -1:], attention_mask=MASK) == [[0], [2]]


def test_arguments_without_a_name_count_as_the_familys_own_order_has_them(network):
    before = {"llama": (), "gpt2": (None,)}[network.config.model_type]
    assert positions(network, TOKENS, *before, MASK) == PLACES


def test_nothing_is_known_without_positions_and_mask_or_with_a_mask_of_whole_attention(network):
    assert positions(network, TOKENS) is None
    assert positions(network, TOKENS, attention_mask=torch.ones(2, 1, 3, 3)) is None


def test_prompts_are_as_long_as_the_cache_of_a_decoding_loop_says(network):
    mask = torch.cat([MASK, torch.ones(2, 4, dtype=torch.long)], dim=1)
    call = {"input_ids": TOKENS[:, :1], "attention_mask": mask, "past_key_values": RoomyCache(3)}
    assert positions(network, **call) == [[4], [6]]
    for n_prompt in (None, torch.tensor([2, 2]), torch.tensor([9])):
        assert lengths(network, call, n_prompt) == [1, 3]


def test_prompts_are_as_long_as_the_caller_says_without_such_a_cache(network):
    assert lengths(network, {"input_ids": TOKENS}, torch.tensor([1, 3])) == [1, 3]
    assert lengths(network, {"input_ids": TOKENS}, None) is None


def test_lengths_of_other_rows_are_refused(network):
    with pytest.raises(SiteError, match="n_prompt gives the prompts of 3 rows and a pass reads 2"):
        window_of(network, (TOKENS,), {}, torch.tensor([1, 1, 1]))
