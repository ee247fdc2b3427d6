"""Means over a segment's own tokens, whatever the shards, and never fewer tokens than it has."""

import polars as pl
import pytest
import torch

from lab.records.errors import SiteError, StorageError
from lab.sampling.decoder import left_padded
from lab.tasks.chain import CHAIN_STEPS
from probes.capture.capture import capture
from probes.capture.site import CompletionTokens, SentenceEnds, Site
from probes.taxonomy import segments as module
from probes.taxonomy.segments import Steps, segment_means, segment_rows, segments
from probes.taxonomy.survey import last_token, token_before

from .conftest import PROBLEMS, SITES, made_texts


@pytest.fixture(scope="module")
def found(model) -> pl.DataFrame:
    return segments(Steps(CHAIN_STEPS, PROBLEMS), model.tokenizer, made_texts())


def read_one_by_one(model, site: Site, found: pl.DataFrame) -> torch.Tensor:
    """The slow way: every text alone through the model."""
    streams = []
    for prompt, completion in made_texts().select("prompt", "completion").iter_rows():
        padded = left_padded(model, [[*prompt, *completion]])
        streams.append(capture(model, padded.tokens, padded.mask, [site])[site][0])
    rows = found.select("text", "first", "last").iter_rows()
    return torch.stack([streams[text][first : last + 1].mean(dim=0) for text, first, last in rows])


@pytest.mark.parametrize("site", SITES, ids=str)
@pytest.mark.parametrize("reading", [None, last_token, token_before])
def test_means_are_those_of_the_texts_read_one_by_one(model, store, found, site, reading):
    wanted = found if reading is None else reading(found)
    means = segment_means(store, wanted, site)
    assert (means.model, means.model_digest, means.site) == (model.name, model.digest, site)
    torch.testing.assert_close(means.means, read_one_by_one(model, site, wanted), rtol=1e-4, atol=1e-5)


def test_the_cut_into_shards_does_not_matter(store, filled, found):
    whole = filled(n_rows=10_000)
    assert len(whole.portions) == 1 < len(store.portions)
    torch.testing.assert_close(segment_means(store, found, SITES[0]).means, segment_means(whole, found, SITES[0]).means)


def test_segments_keep_their_order_and_may_overlap(store, found):
    mixed = pl.concat([found[::-1], found])
    means = segment_means(store, mixed, SITES[0]).means
    torch.testing.assert_close(means, torch.cat([means[len(found) :].flip(0), means[len(found) :]]))


def test_one_shard_is_read_at_a_time_and_only_where_there_is_a_segment(store, found, monkeypatch):
    read, reading = [], module.read_rows

    def counted(store, site, number):
        read.append(number)
        return reading(store, site, number)

    monkeypatch.setattr(module, "read_rows", counted)
    parts = segment_rows(store, found, SITES[0])
    assert read == []
    assert len(next(parts)[1]) <= store.plan.most_rows
    assert read == [0]
    read.clear()
    segment_means(store, found.filter(pl.col("text") == 0), SITES[0])
    assert read == [0]


def test_a_store_of_too_few_positions_is_refused_by_the_segment(filled, found):
    ends = filled(SentenceEnds((";",)))
    with pytest.raises(StorageError, match=r"lacks token 7 of text 0, which is in the segment 'T'.*--positions all"):
        segment_means(ends, found, SITES[0])


def test_a_store_of_completions_cannot_give_the_token_before(filled, found):
    completions = filled(CompletionTokens())
    segment_means(completions, found, SITES[0])
    with pytest.raises(StorageError, match="lacks token 6 of text 0"):
        segment_means(completions, token_before(found), SITES[0])


def test_segments_of_texts_that_the_store_has_not_are_refused(store, found):
    foreign = found.with_columns(pl.col("text") + 100)
    with pytest.raises(StorageError, match="segments are of texts without activations"):
        segment_means(store, foreign, SITES[0])


def test_a_site_that_was_not_captured_is_refused(store, found):
    with pytest.raises(SiteError, match="there is blocks"):
        segment_means(store, found, Site(0, "resid_pre"))
