"""Reading: at which tokens of a segment its category is read."""

from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from lab.errors import StorageError
from lab.seeds import numpy_generator
from probes.taxonomy.segments import SEGMENTS


@dataclass(frozen=True, slots=True)
class SpanMean:
    """All its tokens, averaged: what a taxonomy is fitted on."""


@dataclass(frozen=True, slots=True)
class LastToken:
    """Its last token, where all of it has been read."""


@dataclass(frozen=True, slots=True)
class TokenBefore:
    """The token in front of it, where a model decides what to write: all that a router can know."""


@dataclass(frozen=True, slots=True)
class AnyToken:
    """One of its tokens, drawn at random: over many segments, what reading at every token gives."""

    seed: int


Reading: TypeAlias = SpanMean | LastToken | TokenBefore | AnyToken


def spans_read(reading: Reading, segments: pl.DataFrame) -> pl.DataFrame:
    """`SEGMENTS` rows with `first` and `last` at the tokens that `reading` averages; the words and labels stay.

    Raises StorageError for the token before a segment that stands at the start of its text.
    """
    match reading:
        case SpanMean():
            return segments
        case LastToken():
            return _at(segments, segments["last"])
        case AnyToken(seed=seed):
            first, last = segments["first"].to_numpy(), segments["last"].to_numpy()
            return _at(segments, pl.Series(numpy_generator(seed, "any token").integers(first, last + 1)))
        case TokenBefore():
            if n_first := segments.filter(pl.col("first") == 0).height:
                raise StorageError(
                    f"{n_first} segments stand at the start of their text, without a token before: want prompts"
                )
            return _at(segments, segments["first"] - 1)


def _at(segments: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    places = places.cast(pl.Int32)
    return SEGMENTS.checked(segments.with_columns(places.alias("first"), places.alias("last")))
