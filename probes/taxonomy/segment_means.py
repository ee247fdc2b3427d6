"""SegmentMeans: the mean activation of every segment at one site, read from a store."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.records.errors import StorageError
from lab.records.tables import read_table
from probes.capture.site import Site
from probes.storage.shard import read_rows
from probes.storage.store import INDEX, Store, index_name


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegmentMeans:
    """Segments, and for each one vector of the stream."""

    site: Site
    segments: pl.DataFrame
    """`SEGMENTS` rows."""
    means: Float[Tensor, "segment d_model"]
    """In fp32 on the CPU, neither centred nor normalised."""
    model: str
    model_digest: str
    """Digest of the model whose stream it is."""


class SegmentRows(NamedTuple):
    """The activations of some segments, token by token."""

    segment: Int[np.ndarray, " row"]
    """Row of the segments' table that the activation belongs to."""
    rows: Float[Tensor, "row d_model"]


def segment_means(store: Store, segments: pl.DataFrame, site: Site) -> SegmentMeans:
    """Means over the tokens of each of `segments`, a `SEGMENTS` table of the store's texts.

    One shard is in memory at a time, and the means. Raises as `segment_rows` does.
    """
    totals = torch.zeros(len(segments), store.plan.d_model, dtype=torch.float32)
    for segment, rows in segment_rows(store, segments, site):
        totals.index_add_(0, torch.from_numpy(segment), rows.float())
    n_tokens = torch.from_numpy((segments["last"] - segments["first"] + 1).to_numpy().copy())
    return SegmentMeans(
        site=site,
        segments=segments,
        means=totals / n_tokens[:, None],
        model=store.plan.model,
        model_digest=store.plan.model_digest,
    )


def segment_rows(store: Store, segments: pl.DataFrame, site: Site) -> Iterator[SegmentRows]:
    """The activations of all tokens of all segments, shard by shard; segments may overlap.

    Raises StorageError where the store lacks a token of a segment, where a segment is of a text that the store does not
    have, and for a damaged shard; SiteError for a site that was not captured.
    """
    n_left = len(segments)
    for number, portion in enumerate(store.portions):
        texts = range(portion.first_text, portion.first_text + portion.n_texts)
        mine = np.flatnonzero(segments["text"].is_between(texts.start, texts.stop - 1).to_numpy())
        if not len(mine):
            continue
        n_left -= len(mine)
        index = read_table(store.path / index_name(number), INDEX)
        segment, places = _places(store, segments[mine], index)
        yield SegmentRows(mine[segment], read_rows(store, site, number)[torch.from_numpy(places)])
    if n_left:
        raise StorageError(
            f"{n_left} segments are of texts without activations in {store.path}: want the segments of that store's "
            "texts.parquet, and a store of all tokens"
        )


def _places(
    store: Store, segments: pl.DataFrame, index: pl.DataFrame
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Row of `segments` and row of the shard, for every token of every segment."""
    first, last = segments["first"].to_numpy().astype(np.int64), segments["last"].to_numpy().astype(np.int64)
    n_tokens = last - first + 1
    segment = np.repeat(np.arange(len(segments)), n_tokens)
    offset = np.arange(len(segment)) - np.repeat(np.cumsum(n_tokens) - n_tokens, n_tokens)
    wanted = _key(segments["text"].to_numpy()[segment], first[segment] + offset)
    # The index is in the order of texts and, in each, of places.
    have = _key(index["text"].to_numpy(), index["position"].to_numpy())
    places = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
    if len(absent := np.flatnonzero(have[places] != wanted)):
        row = segments.row(int(segment[absent[0]]), named=True)
        raise StorageError(
            f"{store.path} lacks token {wanted[absent[0]] & 0xFFFFFFFF} of text {row['text']}, which is in the segment "
            f"{row['words']!r}: its positions are {store.plan.positions}; capture all tokens (--positions all)"
        )
    return segment, places


def _key(text: Int[np.ndarray, " row"], position: Int[np.ndarray, " row"]) -> Int[np.ndarray, " row"]:
    return text.astype(np.int64) << 32 | position.astype(np.int64)
