"""Problem: one question with a gold answer, and where it came from."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import polars as pl

from lab.tables import Column, Schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One question."""

    id: str
    """Unique inside its task; random numbers and pairing hang on it, so it must not depend on the order of problems."""
    prompt: str
    """The exact text the model continues."""
    answer: str
    """Gold answer, as the verifier of the task reads it."""
    family: str
    """Group that results are broken down by, such as the number of steps."""
    source: str
    """Task, file or generator the problem came from."""


PROBLEMS = Schema(
    "problems",
    (
        Column("id", pl.String, "unique inside its task"),
        Column("prompt", pl.String, "the exact text that models continue"),
        Column("answer", pl.String, "gold answer"),
        Column("family", pl.String, "group that results are broken down by"),
        Column("source", pl.String, "task, file or generator it came from"),
    ),
)


def problem_table(problems: Iterable[Problem]) -> pl.DataFrame:
    """One row a problem, in the order given."""
    return PROBLEMS.frame([asdict(problem) for problem in problems])


def problems_of(table: pl.DataFrame) -> tuple[Problem, ...]:
    """The inverse of `problem_table`."""
    return tuple(Problem(**row) for row in PROBLEMS.checked(table).iter_rows(named=True))
