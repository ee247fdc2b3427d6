"""Cost: the tokens that a way of answering generated."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.sampling.trace import Trace
from lab.tasks.problem import Problem


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
