"""Choice: the best of some listed ways of answering, by strict accuracy on problems that are kept apart for it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import polars as pl

from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem, Verifier

N_BOOT = 2000

CANDIDATES = Schema(
    "candidates",
    (
        Column("candidate", pl.String, "the way of answering, as listed"),
        Column("chosen", pl.Boolean, "whether it is the one with the highest strict accuracy, the first of equals"),
        Column("n_problems", pl.Int32, "problems it was tried on; none of them is measured later"),
        Column("n_samples", pl.Int32, "completions of each problem; null where it was left out"),
        Column("strict", pl.Float64, "strict accuracy on those problems, in [0, 1]; NaN where it was left out"),
        Column("low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("high", pl.Float64, "upper end of its 95 % interval over problems"),
        Column("n_tokens", pl.Int64, "tokens generated to try it"),
        Column("left_out", pl.String, "why it was not tried; null where it was"),
    ),
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """What a choice is made on."""

    problems: tuple[Problem, ...]
    """Of the training side: a choice made on the problems that are measured would flatter itself."""
    n_samples: int = 8
    """Completions of each problem."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that cannot be tried."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """A candidate and what came of it."""

    value: T
    name: str
    traces: list[Trace] | LeftOut
    """As many completions of every problem, by problem, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice(Generic[T]):
    """The chosen value, and how all did."""

    chosen: T
    table: pl.DataFrame
    """`CANDIDATES`, in the order listed."""

    @property
    def n_tokens(self) -> int:
        """Tokens generated to choose."""
        return int(self.table["n_tokens"].sum())


def choose(tried: Sequence[Tried[T]], problems: Sequence[Problem], verify: Verifier, *, seed: int) -> Choice[T]:
    """The candidate of the highest strict accuracy, the first of equals; so what is plain should be listed first.

    Intervals resample the problems, with the same draws for every candidate. The chosen one's accuracy here is the
    best of several and too high by that: measure it again on other problems. Raises EstimateError where none was tried.
    """
    if all(isinstance(candidate.traces, LeftOut) for candidate in tried):
        reasons = "; ".join(f"{c.name}: {c.traces.reason}" for c in tried if isinstance(c.traces, LeftOut))
        raise EstimateError(f"no candidate can be tried ({reasons or 'none listed'}): list one that can")
    weights = resamples(len(problems), N_BOOT, numpy_generator(seed, "choice"))
    rows: list[dict[str, object]] = []
    values: list[float] = []
    for candidate in tried:
        row: dict[str, object] = {"candidate": candidate.name, "n_problems": len(problems), "left_out": None}
        match candidate.traces:
            case LeftOut(reason=reason):
                row |= {"n_samples": None, "strict": np.nan, "low": np.nan, "high": np.nan, "n_tokens": 0}
                row |= {"left_out": reason}
                values.append(-np.inf)
            case list() as traces:
                n_samples = len(traces) // len(problems)
                owners = [problem for problem in problems for _ in range(n_samples)]
                verdicts = [verify(owner, trace.text).strict for owner, trace in zip(owners, traces, strict=True)]
                interval = accuracy(np.array(verdicts).reshape(len(problems), n_samples), weights)
                row |= {"n_samples": n_samples, "strict": interval.value, "low": interval.low, "high": interval.high}
                row |= {"n_tokens": sum(len(trace.tokens) for trace in traces)}
                values.append(interval.value)
        rows.append(row)
    best = int(np.argmax(values))
    marked = [row | {"chosen": index == best} for index, row in enumerate(rows)]
    table = CANDIDATES.frame([{column.name: row[column.name] for column in CANDIDATES.columns} for row in marked])
    return Choice(chosen=tried[best].value, table=table)


def require_apart(fitting: Fitting, problems: Sequence[Problem]) -> None:
    """Raises EstimateError where a problem to be measured is also one to choose on."""
    shared = sorted({problem.id for problem in fitting.problems} & {problem.id for problem in problems})
    if shared:
        raise EstimateError(
            f"{len(shared)} of {len(problems)} problems ({shared[0]!r}, ...) would be both chosen on and measured: "
            "choose on problems of the training side"
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
