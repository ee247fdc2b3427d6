"""Problem: one question with a gold answer; and how completions of it are judged, and fall into steps."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
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
    aliases: tuple[str, ...] = ()
    """Further gold answers, any one of which is right."""
    choices: tuple[str, ...] = ()
    """What is to choose from, in the order of its letters; the gold answer is then a letter."""
    opening: str = ""
    """How the answer begins, where that is given too; not kept in tables."""
    question: str | None = None
    """What is asked, where the prompt has more than that, such as how to answer; it stands in the prompt as it is."""
    solution: str | None = None
    """A worked solution that came with it."""
    dated: str | None = None
    """When it was first published, as far as is known: `2024`, `2024-06` or `2024-06-01`."""

    @property
    def asked(self) -> str:
        """What is asked, without what tells how to answer."""
        return self.prompt if self.question is None else self.question


PROBLEMS = Schema(
    "problems",
    (
        Column("id", pl.String, "unique inside its task"),
        Column("prompt", pl.String, "the exact text that models continue"),
        Column("answer", pl.String, "gold answer"),
        Column("family", pl.String, "group that results are broken down by"),
        Column("source", pl.String, "task, file or generator it came from"),
        Column("aliases", pl.List(pl.String), "further gold answers, any one of which is right"),
        Column("choices", pl.List(pl.String), "what is to choose from, in the order of its letters"),
        Column("question", pl.String, "what is asked, where the prompt has more than that; else null"),
        Column("solution", pl.String, "worked solution that came with it; null where there is none"),
        Column("dated", pl.String, "when it was published: year, month or day; null where that is not known"),
    ),
    key=("id",),
    optional=("question", "solution", "dated"),
)


def problem_table(problems: Iterable[Problem]) -> pl.DataFrame:
    """One row a problem, in the order given."""
    names = [column.name for column in PROBLEMS.columns]
    return PROBLEMS.frame([{name: getattr(problem, name) for name in names} for problem in problems])


def problems_of(table: pl.DataFrame) -> tuple[Problem, ...]:
    """The inverse of `problem_table`."""
    rows = PROBLEMS.checked(table).iter_rows(named=True)
    return tuple(Problem(**{**row, "aliases": tuple(row["aliases"]), "choices": tuple(row["choices"])}) for row in rows)


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
    read_by: str | None
    """By which rule the answer was read, in the words of the task's reader; None where no answer is stated."""

    @property
    def strict(self) -> bool:
        """Correct by a valid process; where the process cannot be checked, correct."""
        return self.answer_correct and self.process_valid is not False


@runtime_checkable
class Verifier(Protocol):
    """What judges completions; it never raises on any text."""

    def __call__(self, problem: Problem, completion: str, /) -> Verdict:
        """The verdict on one completion of `problem`."""
        ...


@dataclass(frozen=True, slots=True)
class Cut:
    """A completion up to and with one of its steps."""

    text: str
    states: frozenset[str]
    """What the steps so far state as results."""


@dataclass(frozen=True, slots=True)
class Falsified:
    """A completion up to a step whose result was replaced by a wrong one."""

    text: str
    implied: str
    """The answer that follows from it if all later steps are true."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a completion, in characters."""

    start: int
    end: int
    """One behind its last character."""
    label: str
    """What it is, in the task's own words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGrammar:
    """What must be known of a task to cut, question, falsify and label its worked answers."""

    ask: str
    """Written behind a cut text, it asks for the answer at once."""
    cuts: Callable[[Problem, str], tuple[Cut, ...]]
    """The completion after 0, 1, ... n steps; empty unless every step is there and true."""
    falsify: Callable[[Problem, Cut], Falsified]
    """A cut of at least one step with the last one made wrong."""
    spans: Callable[[Problem, str], tuple[Span, ...]]
    """What the parts of any completion are, in order; what cannot be read is in no span."""


@dataclass(frozen=True, slots=True)
class Perturbed:
    """A copy of a problem that is as hard, but that nobody can have read."""

    problem: Problem
    kind: Literal["numbers", "wording"]
    """Other numbers, with the answer to those; or the same sentences in another order, with the same answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judge:
    """A verifier, and what else can be told of the answers that it judges."""

    name: str
    """As `lab.tasks.source.JUDGES` has it."""
    verify: Verifier
    read_answer: Callable[[str], str | None]
    """The answer that a completion states, if any: what the guess floor shuffles among problems."""
    same_answer: Callable[[str, str], bool]
    """Whether a stated answer equals another problem's gold answer, for the guess floor.

    For the chain world, equal strings; else `lab.tasks.math_answer.same_answer`, which is cheaper than `verify` and
    says there what it leaves out, so that the floor may come out a little low.
    """
    steps: StepGrammar | None = None
    """How worked answers fall into steps; None where that cannot be told."""
    first_answer: Callable[[str], int | None] | None = None
    """One behind the first answer that a text states, in its thinking or outside it, for a lenient reading; None where
    there is no such reading."""
    perturb: Callable[[Problem, np.random.Generator], Perturbed | None] | None = None
    """A copy of one problem, None where no rule makes one of it; None where no rule is known for any."""
