"""Elicitation: a method of answering that nothing of the tuned model reaches, what it is asked, and what it gives."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import polars as pl

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem
from lab.tasks.source import Task


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """What a method is asked; DecodingError where there is nothing to do."""

    model: Model
    task: Task
    problems: Sequence[Problem]
    """Those to answer, and none of those that a method chooses on."""
    decoding: Decoding
    """Limits, and a distribution that methods may put their own in the place of."""
    n_samples: int = 1
    """Answers of each problem; one, whatever this says, where nothing is random."""
    seed: int
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not self.problems or self.n_samples < 1 or self.batch_size < 1:
            raise DecodingError(
                f"{len(self.problems)} problems x {self.n_samples} answers in batches of {self.batch_size}: want at "
                "least one of each"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Tokens generated; those of prompts, which are read only, are not counted."""

    n_tokens: tuple[int, ...]
    """For each problem, in the order asked: over all its answers, with every text that was written and thrown away."""
    n_fit_tokens: int = 0
    """Spent once, on other problems, to choose how these are answered."""


def tokens_written(traces: Iterable[Trace], problems: Sequence[Problem]) -> tuple[int, ...]:
    """The tokens of each problem's traces, in the order of `problems`."""
    totals = dict.fromkeys((problem.id for problem in problems), 0)
    for trace in traces:
        totals[trace.problem_id] += len(trace.tokens)
    return tuple(totals.values())


class Elicited(NamedTuple):
    """Answers, what they cost, and how they came to be."""

    traces: list[Trace]
    """As many of each problem, by problem in the order asked, then by sample."""
    cost: Cost
    candidates: pl.DataFrame | None = None
    """`lab.test_time.choice.CANDIDATES` where something was chosen."""


@runtime_checkable
class Elicitation(Protocol):
    """A rung of the ladder that costs 0 bits: a frozen value, whose name and fields tell its digest."""

    def answer(self, asked: Asked) -> Elicited:
        """Answers of the problems.

        Its random numbers are functions of (seed, problem id, sample index) and of the place in the method, so neither
        the batch size nor the other problems change an answer. Raises EstimateError where problems to choose on are
        among those asked, or no candidate can be tried, and DecodingError as `sample` does.
        """
        ...
