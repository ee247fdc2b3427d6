"""Cached rows against full forward passes without a cache, while rows grow, are read again, and leave."""

import numpy as np
import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.sampling.cache import ROOM
from lab.sampling.decoder import Batch, CachedDecoder

PROMPTS = ("a", "what is 2+3?", "chains of unequal length are the point", "no")
OWNER = (0, 2, 1, 1, 3, 0)
FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


def batch_of(model, prompts=PROMPTS, owner=OWNER) -> Batch:
    padded = model.tokenizer(list(prompts), return_tensors="pt", padding=True)
    keys = np.arange(len(owner), dtype=np.uint64)
    return Batch(padded.input_ids, padded.attention_mask.bool(), torch.tensor(owner), keys)


def texts_of(model, prompts=PROMPTS, owner=OWNER) -> list[list[int]]:
    ids = model.tokenizer(list(prompts)).input_ids
    return [list(ids[index]) for index in owner]


def uncached(model, texts):
    """Next-token logits of each text, alone, without padding and without a cache."""
    with torch.no_grad():
        return torch.stack([model.network(torch.tensor([text]), use_cache=False).logits[0, -1] for text in texts])


def assert_close(came, wanted):
    """Within 1e-5 of the largest logit: a batch, padding and a cache add the same numbers up in another order."""
    assert came.shape == wanted.shape
    assert float((came - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def contents(rows) -> list[torch.Tensor]:
    return [tensor.clone() for layer in rows.cache.layers for tensor in (layer.keys, layer.values)]


def tokens_for(texts, step):
    return torch.tensor([(37 * row + 11 * step + 5) % 256 for row in range(len(texts))])


@torch.inference_mode()
def test_cached_logits_equal_uncached_ones_as_unequal_prompts_grow(model):
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    for step in range(4):
        assert_close(rows.propose().logits, uncached(model, texts))
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
    assert_close(rows.propose().logits, uncached(model, texts))
    assert rows.propose().route.tolist() == [0] * len(OWNER)


@torch.inference_mode()
def test_reading_again_equals_an_uncached_pass_and_leaves_the_cache_bit_identical(model):
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    chosen = torch.tensor([4, 1, 2])
    for step in range(3):
        before, logits = contents(rows), rows.propose().logits.clone()
        again = rows.again(chosen)
        assert_close(again, uncached(model, [texts[row] for row in chosen]))
        assert all(torch.equal(old, new) for old, new in zip(before, contents(rows), strict=True))
        assert torch.equal(rows.propose().logits, logits)
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]


@torch.inference_mode()
def test_reading_again_changes_no_later_logit(model):
    plain, watched = CachedDecoder(model, batch_of(model)), CachedDecoder(model, batch_of(model))
    for step in range(3):
        watched.again(torch.tensor([0, 3]))
        for rows in (plain, watched):
            rows.append(tokens_for(OWNER, step))
        assert torch.equal(plain.propose().logits, watched.propose().logits)


@torch.inference_mode()
def test_branches_from_any_number_of_tokens_back_equal_uncached_passes_and_leave_the_cache_bit_identical(model):
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    chosen = torch.tensor([1, 4, 1, 0, 2, 5])
    for step in range(3):
        before = contents(rows)
        for n_last in (1, 3, rows.mask.shape[1]):
            assert_close(rows.branches(chosen, n_last), uncached(model, [texts[row] for row in chosen]))
        assert all(torch.equal(old, new) for old, new in zip(before, contents(rows), strict=True))
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]


@torch.inference_mode()
@pytest.mark.parametrize("chosen", [[4, 1, 2], list(range(len(OWNER)))])
def test_revising_writes_the_last_position_of_the_chosen_rows_alone(model, chosen):
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    for step in range(2):
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        before = contents(rows)
        # Another token in the place of the last one, as an edit would have it.
        others = (rows.tokens[:, -1] + 1) % 256
        kept, rows.tokens = rows.tokens, torch.cat([rows.tokens[:, :-1], others[:, None]], dim=1)
        revised = rows.revise(torch.tensor(chosen))
        rows.tokens = kept
        for row in chosen:
            texts[row][-1] = int(others[row])
        assert_close(revised, uncached(model, [texts[row] for row in chosen]))
        for old, new in zip(before, contents(rows), strict=True):
            assert torch.equal(old[..., :-1, :], new[..., :-1, :])
            left = [row for row in range(len(OWNER)) if row not in chosen]
            assert torch.equal(old[left], new[left])
            assert not any(torch.equal(old[row, :, -1], new[row, :, -1]) for row in chosen)
    tokens = tokens_for(texts, 9)
    rows.append(tokens)
    texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
    assert_close(rows.propose().logits, uncached(model, texts))


@torch.inference_mode()
def test_rows_that_stay_are_the_same_texts_in_the_order_asked_for(model):
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    for step, kept in enumerate(([5, 0, 2, 3], [0, 1, 2], [2])):
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        rows.keep(torch.tensor(kept))
        texts = [texts[row] for row in kept]
        assert_close(rows.propose().logits, uncached(model, texts))
        assert_close(rows.again(torch.tensor([0])), uncached(model, texts[:1]))
        # Rows leave before the next token is added, as the decoding loop does it.
        rows.keep(torch.arange(len(kept)))
        tokens = tokens_for(texts, step + 7)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
        assert_close(rows.propose().logits, uncached(model, texts))


@torch.inference_mode()
def test_rows_outgrow_the_spare_room_of_the_cache(model):
    rows, texts = CachedDecoder(model, batch_of(model, owner=(1, 3))), texts_of(model, owner=(1, 3))
    for step in range(2 * ROOM + 3):
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
    assert_close(rows.propose().logits, uncached(model, texts))
    assert_close(rows.again(torch.tensor([1])), uncached(model, texts[1:]))


@torch.inference_mode()
@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3_text"])
def test_a_sliding_window_shorter_than_the_text_is_kept(family):
    model = tiny_model(family, seed=5)
    whole = uncached(model, texts_of(model))
    model.network.config.sliding_window = 6
    rows, texts = CachedDecoder(model, batch_of(model)), texts_of(model)
    assert_close(rows.propose().logits, uncached(model, texts))
    assert not torch.allclose(rows.propose().logits, whole, atol=0.1)
    for step in range(9):
        tokens = tokens_for(texts, step)
        rows.append(tokens)
        texts = [[*text, token] for text, token in zip(texts, tokens.tolist(), strict=True)]
    assert_close(rows.propose().logits, uncached(model, texts))
    assert_close(rows.again(torch.tensor([2])), uncached(model, texts[2:3]))


@torch.inference_mode()
def test_each_distinct_prompt_is_read_once_however_many_rows_continue_it(model):
    sizes = []
    handle = model.network.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        batch = batch_of(model)
        CachedDecoder(model, batch).append(tokens_for(OWNER, 0))
    finally:
        handle.remove()
    assert sizes == [(len(PROMPTS), batch.prompts.shape[1]), (len(OWNER), 1)]
