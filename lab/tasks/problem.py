"""Problem: one question with a gold answer, and where it came from."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TypeAlias

import polars as pl

from lab.records.tables import Column, Schema


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


HELD_OUT_SHARE = 0.5
"""Share of questions kept for evaluation; the others are for fitting and training."""


def is_held_out(question: str) -> bool:
    """The side of `question`, whatever its place, its file or its seed, so one question is never on both sides."""
    digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=4, person=b"held out").digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Two separate judgements and the reason for the first one that failed."""

    answer_correct: bool
    """The final answer equals the gold answer."""
    process_valid: bool | None
    """Every written step is true and used; None where the task's process cannot be checked."""
    reason: str
    """"ok", or the first fault found, in a few words."""

    @property
    def strict(self) -> bool:
        """Correct by a valid process; where the process cannot be checked, correct."""
        return self.answer_correct and self.process_valid is not False


Verifier: TypeAlias = Callable[[Problem, str], Verdict]
"""(problem, completion text) -> verdict. A verifier never raises on any text."""
