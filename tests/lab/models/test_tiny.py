"""Tiny decoders are real, seeded, and leave the global generator alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import EOS, FAMILIES, PAD, byte_tokenizer, tiny_model, tiny_network

TOKENIZER = byte_tokenizer()


@given(st.text())
def test_every_text_comes_back_from_its_bytes(text):
    ids = TOKENIZER(text).input_ids
    assert ids == list(text.encode())
    assert TOKENIZER.decode(ids) == text


def test_the_byte_tokenizer_pads_on_the_left_and_survives_being_saved(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    again = type(TOKENIZER).from_pretrained(tmp_path, local_files_only=True)
    assert again(["a", "abc"], padding=True).input_ids == [[PAD, PAD, 97], [97, 98, 99]]
    assert (again.pad_token_id, again.eos_token_id, len(again)) == (PAD, EOS, 258)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_seed_gives_one_network_and_another_seed_another(family):
    first, second, other = (tiny_model(family, seed=seed).digest for seed in (0, 0, 1))
    assert first == second != other


@pytest.mark.parametrize("family", FAMILIES)
def test_building_a_network_leaves_the_global_generator_as_it_was(family):
    before = torch.get_rng_state()
    tiny_network(family, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_of_a_random_network_is_not_one_token_over_and_over(family):
    model = tiny_model(family, seed=0)
    tokens = model.tokenizer("<6-0-4+8?", return_tensors="pt")
    written = model.network.generate(**tokens, max_new_tokens=16, do_sample=False)[0, tokens.input_ids.shape[1] :]
    assert written.unique().numel() > 3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_network_takes_its_size_from_its_arguments(family):
    network = tiny_network(family, seed=0, n_layers=3, d_model=16, d_vocab=20)
    logits = network(torch.tensor([[1, 2, 19]])).logits
    assert logits.shape == (1, 3, 20)
    assert network.config.num_hidden_layers == 3
    assert network.config.hidden_size == 16
