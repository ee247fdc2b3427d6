"""segments: the sentences or the steps of texts, as spans of tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.records.errors import EstimateError, StorageError
from lab.records.seeds import child_seed
from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem, StepGrammar
from probes.capture.site import ENDS, SentenceEnds, Site, positions
from probes.scores.labels import character_spans, decoded, overlapping
from probes.storage.store import Store, read_index, read_rows

SEGMENTS = Schema(
    "segments",
    (
        Column("text", pl.Int32, "row of the texts"),
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("first", pl.Int32, "place of its first token in the text, prompt included, from 0"),
        Column("last", pl.Int32, "place of its last token"),
        Column("words", pl.String, "the segment as text"),
        Column("label", pl.String, "what it is by the task's exact rule; null where there is none"),
    ),
)


@dataclass(frozen=True, slots=True)
class Sentences:
    """A completion cut behind each of these strings; it has no labels. What follows the last end is a segment too."""

    ends: tuple[str, ...] = ENDS


@dataclass(frozen=True, slots=True)
class Steps:
    """The spans of the task's step grammar, with its labels; what the grammar cannot read is in no segment."""

    grammar: StepGrammar
    problems: Mapping[str, Problem]
    """Id -> problem, of all that the texts answer."""


Rule: TypeAlias = Sentences | Steps


def finest_rule(grammar: StepGrammar | None, problems: Sequence[Problem]) -> Rule:
    """Steps where the task has a step grammar, sentences where it has none."""
    return Sentences() if grammar is None else Steps(grammar, {problem.id: problem for problem in problems})


def segments(rule: Rule, tokenizer: PreTrainedTokenizerBase, texts: pl.DataFrame) -> pl.DataFrame:
    """`SEGMENTS` rows of the completions of a `TEXTS` table, text by text in order.

    Segments are spans of tokens and not strings looked up in the text, so one that is written twice is two segments.
    A segment of no visible character (an end token by itself) is left out. Raises StorageError where a text answers a
    problem that is not known, or where there is no segment in any text.
    """
    rows: list[dict[str, object]] = []
    read = texts.select("problem_id", "prompt", "completion").iter_rows()
    for text, (problem_id, prompt, completion) in enumerate(read):
        for first, last, words, label in _found(rule, tokenizer, problem_id, completion):
            places = {"first": len(prompt) + first, "last": len(prompt) + last}
            rows.append({"text": text, "problem_id": problem_id, "words": words, "label": label, **places})
    if not rows:
        raise StorageError(
            f"no segment in {len(texts)} texts: want completions with sentences, or ones that the step grammar reads"
        )
    return SEGMENTS.frame(rows)


def _found(
    rule: Rule, tokenizer: PreTrainedTokenizerBase, problem_id: str, completion: Sequence[int]
) -> Iterator[tuple[int, int, str, str | None]]:
    """First and last place in the completion, words and label of each of its segments."""
    match rule:
        case Sentences(ends=ends):
            first, last = 0, len(completion) - 1
            for end in sorted({*positions(SentenceEnds(ends), tokenizer, [], completion).tolist(), last}):
                words = decoded(tokenizer, completion[first : end + 1]).strip() if end >= first else ""
                if words:
                    yield first, end, words, None
                first = end + 1
        case Steps(grammar=grammar, problems=problems):
            if problem_id not in problems:
                raise StorageError(
                    f"a text answers {problem_id!r}, which is not among {len(problems)} problems: want the problems "
                    "that the texts were sampled from"
                )
            text, places = decoded(tokenizer, completion), character_spans(tokenizer, completion)
            for span in grammar.spans(problems[problem_id], text):
                inside = overlapping(places, span.start, span.end)
                if inside:
                    yield inside[0], inside[-1], text[span.start : span.end], span.label
        case never:
            assert_never(never)


STOPPING_SHARE = JUDGED_SHARE = 0.2
"""Of all problems; at least one of each."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Which segments belong to which part; each belongs to one, with all others of its problem."""

    fit: Bool[np.ndarray, " segment"]
    stopping: Bool[np.ndarray, " segment"]
    judged: Bool[np.ndarray, " segment"]
    """These decide nothing in a fit."""


def parts(problem_ids: Sequence[str], seed: int) -> Parts:
    """The parts of segments whose problems are `problem_ids`, one for each segment.

    Problems are ordered by a hash of (seed, id), so neither the order of segments nor their number matters. Raises
    EstimateError for fewer than three problems.
    """
    ordered = sorted(set(problem_ids), key=lambda problem_id: child_seed(seed, "part", problem_id))
    if len(ordered) < 3:
        raise EstimateError(
            f"segments of {len(ordered)} problems: want at least 3, to fit on, to stop on and to judge on"
        )
    n_judged, n_stopping = (max(1, round(share * len(ordered))) for share in (JUDGED_SHARE, STOPPING_SHARE))
    place = {problem_id: place for place, problem_id in enumerate(ordered)}
    places = np.array([place[problem_id] for problem_id in problem_ids])
    judged, stopping = places < n_judged, (places >= n_judged) & (places < n_judged + n_stopping)
    return Parts(fit=~judged & ~stopping, stopping=stopping, judged=judged)


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


def segment_rows(
    store: Store, segments: pl.DataFrame, site: Site
) -> Iterator[tuple[Int[np.ndarray, " row"], Float[Tensor, "row d_model"]]]:
    """The activations of all tokens of all segments, shard by shard, and the segment of each; segments may overlap.

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
        segment, places = _places(store, segments[mine], read_index(store, number))
        yield mine[segment], read_rows(store, site, number)[torch.from_numpy(places)]
    if n_left:
        raise StorageError(
            f"{n_left} segments are of texts without activations in {store.path}: want the segments of that store's "
            "texts.parquet, and a store of all tokens"
        )


def _places(
    store: Store, segments: pl.DataFrame, index: pl.DataFrame
) -> tuple[Int[np.ndarray, " row"], Int[np.ndarray, " row"]]:
    """Row of `segments` and row of the shard, for every token of every segment."""
    spans = segments.with_row_index("segment").with_columns(
        position=pl.int_ranges("first", pl.col("last") + 1, dtype=pl.Int32)
    )
    wanted = spans.explode("position").join(
        index.select("text", "position", "row"), on=["text", "position"], how="left", maintain_order="left"
    )
    if absent := wanted.filter(pl.col("row").is_null()).rows(named=True):
        raise StorageError(
            f"{store.path} lacks token {absent[0]['position']} of text {absent[0]['text']}, which is in the segment "
            f"{absent[0]['words']!r}: its positions are {store.plan.positions}; capture all tokens (--positions all)"
        )
    return wanted["segment"].to_numpy().astype(np.int64), wanted["row"].to_numpy().astype(np.int64)
