"""Choice: the best of some listed ways of answering, by strict accuracy on problems that are kept apart for it.

`Temperature` is the simplest: sampling at the best of several temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, assert_never

import numpy as np
import polars as pl

from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.records.errors import EstimateError
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema
from lab.sampling.sample import sample
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem, Verifier
from lab.test_time.method import Asked, Cost, Elicited, tokens_written

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
            case never:
                assert_never(never)
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
class Temperature:
    """The temperature with the highest strict accuracy on other problems; it costs no more tokens than any other."""

    temperatures: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    """0 is greedy decoding. The first of equals is chosen."""
    fitting: Fitting

    def answer(self, asked: Asked) -> Elicited:
        """Answers at that temperature, in the place of the one in `asked.decoding`."""
        require_apart(self.fitting, asked.problems)
        choice = self.choose(asked)
        traces = _at(choice.chosen, asked, asked.problems, asked.n_samples)
        cost = Cost(n_tokens=tokens_written(traces, asked.problems), n_fit_tokens=choice.n_tokens)
        return Elicited(traces, cost, choice.table)

    def choose(self, asked: Asked) -> Choice[float]:
        """The temperature at which most samples are strictly right, the first of equals; all draw the same numbers."""
        problems = self.fitting.problems
        tried = [
            Tried(
                temperature, f"temperature {temperature:g}", _at(temperature, asked, problems, self.fitting.n_samples)
            )
            for temperature in self.temperatures
        ]
        return choose(tried, problems, asked.task.verify, seed=asked.seed)


def _at(temperature: float, asked: Asked, problems: Sequence[Problem], n_samples: int) -> list[Trace]:
    decoding = replace(asked.decoding, temperature=temperature)
    n_drawn = n_samples_at(temperature, n_samples)
    return sample(asked.model, problems, n_drawn, decoding, seed=asked.seed, batch_size=asked.batch_size)


def n_samples_at(temperature: float, n_samples: int) -> int:
    """`n_samples`, or 1 at temperature 0, where all would be one."""
    return n_samples if temperature else 1
