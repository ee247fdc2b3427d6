"""segments: the sentences or the steps of texts, as spans of tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, assert_never

import numpy as np
import polars as pl
from jaxtyping import Bool
from transformers import PreTrainedTokenizerBase

from lab.records.errors import EstimateError, StorageError
from lab.records.seeds import child_seed
from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem
from lab.tasks.step_grammar import StepGrammar
from probes.capture.positions import ENDS, SentenceEnds, positions
from probes.scores.labels import character_spans, decoded

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


class _Found(NamedTuple):
    """A segment of one completion, in places of the completion."""

    first: int
    last: int
    words: str
    label: str | None


def segments(rule: Rule, tokenizer: PreTrainedTokenizerBase, texts: pl.DataFrame) -> pl.DataFrame:
    """`SEGMENTS` rows of the completions of a `TEXTS` table, text by text in order.

    Segments are spans of tokens and not strings looked up in the text, so one that is written twice is two segments.
    A segment of no visible character (an end token by itself) is left out. Raises StorageError where a text answers a
    problem that is not known, or where there is no segment in any text.
    """
    rows = [
        {"text": text, "problem_id": problem_id, "first": n + found.first, "last": n + found.last}
        | {"words": found.words, "label": found.label}
        for text, (problem_id, prompt, completion) in enumerate(
            texts.select("problem_id", "prompt", "completion").iter_rows()
        )
        for n in (len(prompt),)
        for found in _found(rule, tokenizer, problem_id, completion)
    ]
    if not rows:
        raise StorageError(
            f"no segment in {len(texts)} texts: want completions with sentences, or ones that the step grammar reads"
        )
    return SEGMENTS.frame(rows)


def _found(
    rule: Rule, tokenizer: PreTrainedTokenizerBase, problem_id: str, completion: Sequence[int]
) -> Iterator[_Found]:
    match rule:
        case Sentences():
            return _sentences(rule, tokenizer, completion)
        case Steps():
            return _steps(rule, tokenizer, problem_id, completion)
        case never:
            assert_never(never)


def _sentences(rule: Sentences, tokenizer: PreTrainedTokenizerBase, completion: Sequence[int]) -> Iterator[_Found]:
    last = len(completion) - 1
    first = 0
    for end in sorted({*positions(SentenceEnds(rule.ends), tokenizer, [], completion).tolist(), last}):
        words = decoded(tokenizer, completion[first : end + 1]).strip() if end >= first else ""
        if words:
            yield _Found(first, end, words, None)
        first = end + 1


def _steps(
    rule: Steps, tokenizer: PreTrainedTokenizerBase, problem_id: str, completion: Sequence[int]
) -> Iterator[_Found]:
    problem = rule.problems.get(problem_id)
    if problem is None:
        raise StorageError(
            f"a text answers {problem_id!r}, which is not among {len(rule.problems)} problems: want the problems that "
            "the texts were sampled from"
        )
    text, places = decoded(tokenizer, completion), character_spans(tokenizer, completion)
    for span in rule.grammar.spans(problem, text):
        inside = [place for place, (start, end) in enumerate(places) if start < span.end and end > span.start]
        if inside:
            yield _Found(inside[0], inside[-1], text[span.start : span.end], span.label)


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
