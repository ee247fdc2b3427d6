"""Where problems come from: what a user types, and the task it names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.chain import CHAIN
from lab.tasks.chain_task import chain_mix, chain_task
from lab.tasks.gym import gym_task
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem, StepGrammar, Verifier
from lab.tasks.question_rows import FileTask, hub_task


@runtime_checkable
class TaskSource(Protocol):
    """A source of problems that one judge can judge: a frozen value."""

    @property
    def typed(self) -> str:
        """What a user would type for it, options that cannot be typed left out."""
        ...

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` distinct problems of one side, drawn from `generator`; fewer are the first ones of more.

        The sides share no question, whatever the generator. Raises TaskError for every fault of the source.
        """
        ...

    def judge(self, problems: Sequence[Problem]) -> Judge:
        """What judges completions of `problems`, which are its own."""
        ...


JUDGES: dict[str, Judge] = {"chain": CHAIN, "math": MATH}
"""Name -> what judges the problems of a file that is typed with this name behind it."""


def file_task(text: str) -> FileTask | None:
    """The task typed as `path/to/file.jsonl[:JUDGE]`, None for another text; TaskError for an unknown judge."""
    found = re.fullmatch(r"(?!chain:|gym:|hub:)(?P<path>.+\.(?:jsonl?|parquet|arrow))(?::(?P<judge>\w+))?", text)
    if found is None:
        return None
    if (name := found["judge"] or MATH.name) not in JUDGES:
        raise TaskError(f"task {text!r}: no judge is called {name!r}, want one of {', '.join(JUDGES)}")
    return FileTask(path=Path(found["path"]), judged_by=JUDGES[name])


SOURCES: dict[str, Callable[[str], TaskSource | None]] = {
    "'chain', 'chain:+-#', 'chain:+-:3-8'": chain_task,
    "'25%chain:#:3-5,75%chain:*:3-5'": chain_mix,
    "'gym:chain_sum', 'gym:chain_sum:max_terms=3'": gym_task,
    "'hub:openai/gsm8k:main:test'": hub_task,
    "'path/to/file.jsonl'": file_task,
}
"""How a task is typed -> the source that a text so formed names, or None; the first that reads a text wins."""


def task_source(text: str) -> TaskSource:
    """The source that a user names in one of the forms of `SOURCES`.

    Raises TaskError for anything else; that a dataset or file exists is found out by `open_task`.
    """
    source = next((found for read in SOURCES.values() if (found := read(text)) is not None), None)
    if source is None:
        *forms, last = SOURCES
        raise TaskError(f"task {text!r} is not one of {', '.join(forms)} or {last}")
    return source


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Problems and the judge of their completions."""

    name: str
    """As a user would type the source."""
    problems: tuple[Problem, ...]
    judge: Judge = field(compare=False)

    @property
    def verify(self) -> Verifier:
        """Judges a completion of one of the problems."""
        return self.judge.verify

    @property
    def read_answer(self) -> Callable[[str], str | None]:
        """The answer that a completion states, if any."""
        return self.judge.read_answer

    @property
    def same_answer(self) -> Callable[[str, str], bool]:
        """Whether a stated answer equals another problem's gold answer."""
        return self.judge.same_answer

    @property
    def steps(self) -> StepGrammar | None:
        """How worked answers fall into steps."""
        return self.judge.steps


def open_task(source: TaskSource, *, n_problems: int, seed: int, held_out: bool = True) -> Task:
    """The task of `n_problems` distinct problems of `source`, on its held-out side or, for fitting, its training side.

    The sides share no question, whatever the seeds. The same arguments give the same problems, and fewer problems are
    the first ones of more. Raises TaskError where `n_problems` is below 1 or beyond what there is, and for every fault
    of the source.
    """
    # The import is here because it brings torch, and the command line names sources without it.
    from lab.records.seeds import numpy_generator

    if n_problems < 1:
        raise TaskError(f"task {source.typed!r}: asked for {n_problems} problems, want at least 1")
    generator = numpy_generator(seed, "problems", "held out" if held_out else "training")
    problems = source.problems(n_problems, generator, held_out=held_out)
    return Task(name=source.typed, problems=problems, judge=source.judge(problems))
