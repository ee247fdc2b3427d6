"""Linear attention keeps states without positions: rows are cut, read again and revised as with keys and values."""

import numpy as np
import pytest
import torch

from lab.records.errors import DecodingError
from lab.sampling.cache import StateLayer
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from tests.families import own_config, own_logits, random_model

PROMPTS = [[72, 101], [104, 105, 33, 33, 10], [65]]
OWNER = [0, 1, 1, 2]


@pytest.fixture(scope="module")
def model():
    return random_model(own_config("qwen3_5_text"), "hybrid")


def rows_of(model) -> tuple[CachedDecoder, list[list[int]]]:
    read = left_padded(model, PROMPTS)
    batch = Batch(read.tokens, read.mask, torch.tensor(OWNER), np.zeros(len(OWNER), dtype=np.uint64))
    return CachedDecoder(model, batch), [PROMPTS[owner] for owner in OWNER]


def written(rows: CachedDecoder, texts: list[list[int]], step: int) -> list[list[int]]:
    tokens = [(7 * step + 31 * at) % 256 for at in range(len(texts))]
    rows.append(torch.tensor(tokens))
    return [[*text, token] for text, token in zip(texts, tokens, strict=True)]


def require_read(model, logits: torch.Tensor, texts: list[list[int]]) -> None:
    wanted = torch.stack([own_logits(model, text)[-1] for text in texts])
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_rows_are_read_again_and_kept_and_nothing_of_it_reaches_later_tokens(model):
    rows, texts = rows_of(model)
    plain, _ = rows_of(model)
    assert rows.cache.has_states
    for step in range(3):
        for chosen in ([3, 1], [0, 1, 2, 3], [2]):
            require_read(model, rows.again(torch.tensor(chosen)), [texts[row] for row in chosen])
        require_read(model, rows.branches(torch.tensor([2, 2]), 1), [texts[2]] * 2)
        texts = written(rows, texts, step)
        written(plain, texts, step)
        assert torch.equal(rows.propose().logits, plain.propose().logits)
        require_read(model, rows.propose().logits, texts)
    rows.keep(torch.tensor([3, 0]))
    texts = [texts[3], texts[0]]
    require_read(model, rows.again(torch.tensor([1])), [texts[1]])
    texts = written(rows, texts, 9)
    require_read(model, rows.propose().logits, texts)


@torch.inference_mode()
@pytest.mark.parametrize("chosen", [[3, 1], [0, 1, 2, 3]])
def test_a_revised_token_is_what_later_ones_remember(model, chosen):
    rows, texts = rows_of(model)
    for step in range(2):
        texts = written(rows, texts, step)
        others = (rows.tokens[:, -1] + 1) % 256
        kept, rows.tokens = rows.tokens, torch.cat([rows.tokens[:, :-1], others[:, None]], dim=1)
        revised = rows.revise(torch.tensor(chosen))
        rows.tokens = kept
        for row in chosen:
            texts[row][-1] = int(others[row])
        require_read(model, revised, [texts[row] for row in chosen])
    require_read(model, rows.again(torch.tensor([0])), [[*texts[0][:-1], int(rows.tokens[0, -1])]])
    texts = written(rows, texts, 5)
    require_read(model, rows.propose().logits, texts)


@torch.inference_mode()
def test_a_window_of_several_tokens_is_refused(model):
    rows, _ = rows_of(model)
    with pytest.raises(DecodingError, match="is to go back 2 tokens, and keeps what it was one token ago"):
        rows.branches(torch.tensor([0]), 2)
    assert any(isinstance(layer, StateLayer) for layer in rows.cache.held)
