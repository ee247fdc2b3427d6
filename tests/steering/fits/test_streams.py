"""Streams are what the model computes, whichever texts were read together, and the rest of the model runs on them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from probes.capture.capture import capture
from probes.capture.site import Site
from steering.fits.fit import read_streams, without_beginnings
from tests.kinds import one_always

SITE = Site(0)
TEXTS = [[5, 80, 3, 7, 7, 120, 9, 31, 2, 60], [65, 66], [5, 80, 3], [9, 8, 7, 6, 5], [5, 80, 3], [9]]


@pytest.fixture(scope="module", params=one_always(["llama", "gemma2", "gpt2"]))
def model(request):
    return tiny_model(request.param, seed=5)


@pytest.mark.parametrize("batch_size", [1, 4])
@torch.no_grad()
def test_every_text_has_its_own_stream_and_the_logits_of_the_whole_network(model, batch_size):
    streams = read_streams(model, SITE, TEXTS, batch_size=batch_size)
    rows = torch.tensor([1, 0, 2, 5])
    batch = streams.batch(rows)
    places = torch.tensor([[len(TEXTS[row]) - 1] for row in rows])
    logits = streams.logits(batch, places)
    for place, row in enumerate(rows.tolist()):
        ids = torch.tensor([TEXTS[row]])
        wanted = capture(model, ids, torch.ones_like(ids).bool(), [SITE])[SITE][0]
        torch.testing.assert_close(batch[place, : len(TEXTS[row])], wanted, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(streams.last()[row], wanted[-1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(logits[place, 0], model.network(ids).logits[0, -1], atol=1e-3, rtol=1e-3)


def test_a_text_that_begins_another_is_not_kept_twice(model):
    streams = read_streams(model, SITE, TEXTS, batch_size=4)
    assert len(streams.tokens) == 10 + 2 + 5


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=12))
def test_whole_texts_begin_no_other_and_each_text_begins_its_owner(texts):
    whole, owners = without_beginnings(texts)
    for text, owner in zip(texts, owners, strict=True):
        assert list(whole[owner][: len(text)]) == text
    for index, text in enumerate(whole):
        assert not any(list(other[: len(text)]) == list(text) for other in whole[:index] + whole[index + 1 :])
