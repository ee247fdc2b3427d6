"""Texts of unequal length in one batch."""

import torch

from lab.models.tiny import PAD, tiny_model
from lab.sampling.decoder import left_padded, token_positions


def test_texts_are_padded_on_the_left_and_positions_count_their_own_tokens():
    padded = left_padded(tiny_model("llama"), [[7, 8, 9], [5], []])
    assert padded.tokens.tolist() == [[7, 8, 9], [PAD, PAD, 5], [PAD, PAD, PAD]]
    assert padded.mask.tolist() == [[True] * 3, [False, False, True], [False] * 3]
    assert token_positions(padded.mask).tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]


def test_no_texts_are_a_batch_of_none():
    padded = left_padded(tiny_model("llama"), [])
    assert padded.tokens.shape == padded.mask.shape == torch.Size([0, 0])
