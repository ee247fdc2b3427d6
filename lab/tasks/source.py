"""Where problems come from: what a user types, the task that it names, its two sides; and tasks of the chain world."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from lab.records.errors import TaskError, meant
from lab.tasks.benchmarks import BENCHMARKS
from lab.tasks.chain import CHAIN, OPERATORS, Expression, as_problem
from lab.tasks.choice_answer import CHOICE, TEXT
from lab.tasks.gym import gym_task
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem, StepGrammar, Verifier
from lab.tasks.program import CODE
from lab.tasks.question_rows import BY_RULE, Found, Reading
from lab.tasks.row_task import FileTask, HubTask, hub_task


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


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainTask:
    """A distribution over expressions: length uniform, operands uniform digits, operators uniform."""

    operators: str = "+-"
    """Operators that may occur, from `OPERATORS`."""
    lengths: tuple[int, int] = (3, 8)
    """Fewest and most operations, both included."""

    def __post_init__(self) -> None:
        if not self.operators or not set(self.operators) <= set(OPERATORS):
            raise TaskError(
                f"chain operators {self.operators!r}: want a non-empty subset of {''.join(OPERATORS)!r}, such as '+-'"
            )
        low, high = self.lengths
        if not 1 <= low <= high:
            raise TaskError(f"chain lengths {low}..{high}: want 1 <= fewest <= most, such as 3..8")

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        low, high = self.lengths
        return f"chain:{self.operators}:{low}-{high}"

    def expressions(self, generator: np.random.Generator, *, held_out: bool) -> Iterator[Expression]:
        """Endless independent draws from one side of the split; training draws may repeat."""
        low, high = self.lengths
        while True:
            length = int(generator.integers(low, high + 1))
            operands = tuple(int(digit) for digit in generator.integers(0, 10, length + 1))
            chosen = generator.integers(0, len(self.operators), length)
            expression = Expression(operands, "".join(self.operators[index] for index in chosen))
            if expression.held_out == held_out:
                yield expression

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` distinct problems; raises TaskError where the world has too few."""
        drawn = map(as_problem, self.expressions(generator, held_out=held_out))
        return _distinct(drawn, n_problems, "chain problems")

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002 (whatever the problems)
        """The exact verifier."""
        return CHAIN


@dataclass(frozen=True, slots=True)
class ChainPart:
    """One task of a mix."""

    percent: float
    """How many of 100 problems come from it, on average."""
    task: ChainTask


@dataclass(frozen=True, slots=True)
class ChainMix:
    """Chain problems that are drawn from one of several tasks, each with its own probability."""

    parts: tuple[ChainPart, ...]

    def __post_init__(self) -> None:
        percents = [part.percent for part in self.parts]
        if not (all(percent > 0 for percent in percents) and abs(sum(percents) - 100) <= 1e-6):
            raise TaskError(f"a mix of {percents} percent: want positive parts that add up to 100")
        if len({frozenset(part.task.operators) for part in self.parts}) < len(self.parts):
            raise TaskError("two parts of a mix have the same operators: join them into one")

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        # Every digit and no exponent, so that the name can be typed and is this mix again.
        percents = [np.format_float_positional(part.percent, trim="-") for part in self.parts]
        return ",".join(f"{percent}%{part.task.typed}" for percent, part in zip(percents, self.parts, strict=True))

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` distinct problems in random order, the part of each drawn on its own; a family names its part.

        The shares of a problem set therefore scatter around those of the mix, as those of any sample do. Raises
        TaskError where a part has too few.
        """
        shares = np.array([part.percent for part in self.parts]) / 100
        streams = [part.task.expressions(generator, held_out=held_out) for part in self.parts]

        def drawn() -> Iterator[Problem]:
            while True:
                chosen = int(generator.choice(len(streams), p=shares))
                problem = as_problem(next(streams[chosen]))
                yield replace(problem, family=f"{self.parts[chosen].task.operators}, {problem.family}")

        return _distinct(drawn(), n_problems, "problems of a mix")

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002
        """The exact verifier."""
        return CHAIN


def _distinct(drawn: Iterator[Problem], n_problems: int, of: str) -> tuple[Problem, ...]:
    """The first `n_problems` that are different, of 200 draws for each and some more."""
    distinct: dict[str, Problem] = {}
    for n_draws, problem in enumerate(drawn):
        if len(distinct) == n_problems:
            break
        if n_draws > 200 * n_problems + 10_000:
            raise TaskError(f"asked for {n_problems} distinct {of}, found {len(distinct)}: want fewer, or longer ones")
        distinct.setdefault(problem.id, problem)
    return tuple(distinct.values())


def chain_task(text: str) -> ChainTask | None:
    """The task typed as `chain[:operators[:fewest-most]]`, None for another text."""
    chain = re.fullmatch(r"chain(?::(?P<operators>[^:]+)(?::(?P<low>[0-9]{1,4})-(?P<high>[0-9]{1,4}))?)?", text)
    if chain is None:
        return None
    if chain["low"]:
        return ChainTask(operators=chain["operators"], lengths=(int(chain["low"]), int(chain["high"])))
    return ChainTask(operators=chain["operators"]) if chain["operators"] else ChainTask()


def chain_mix(text: str) -> ChainMix | None:
    """The mix typed as several chain tasks with their percentages, `25%...,75%...`, None for another text.

    Raises TaskError where something else is among them.
    """
    parts = [re.fullmatch(r"(?P<percent>[0-9]+(?:\.[0-9]+)?)%(?P<task>.+)", part) for part in text.split(",")]
    found = [(float(part["percent"]), chain_task(part["task"])) for part in parts if part is not None]
    if not found:
        return None
    chains = tuple(ChainPart(percent, task) for percent, task in found if task is not None)
    if len(chains) < len(parts):
        raise TaskError(f"task {text!r}: want a mix of chain tasks only, each with its percentage")
    return ChainMix(chains)


JUDGES: dict[str, Judge] = {judge.name: judge for judge in (CHAIN, MATH, CHOICE, TEXT, CODE)}
"""Name -> what judges the problems of a file that is typed with this name behind it."""


def file_task(text: str) -> FileTask | None:
    """The task typed as `path/to/file.jsonl[:JUDGE]`, None for another text; TaskError for an unknown judge."""
    endings = "|".join(ENDINGS)
    found = re.fullmatch(rf"(?!chain:|gym:|hub:)(?P<path>.+\.(?:{endings}))(?::(?P<judge>\w+))?", text)
    if found is None:
        return None
    if (name := found["judge"]) is None:
        return FileTask(path=Path(found["path"]))
    if name not in JUDGES:
        raise TaskError(f"task {text!r}: no judge is called {name!r}, want one of {', '.join(JUDGES)}")
    return FileTask(path=Path(found["path"]), judged_by=JUDGES[name])


ENDINGS = ("jsonl?", "parquet", "arrow", "csv", "tsv")
"""What tells a file from other tasks; what is in it is told by its content."""


def benchmark(text: str) -> HubTask | None:
    """The public benchmark of this name."""
    return BENCHMARKS.get(text)


SOURCES: dict[str, Callable[[str], TaskSource | None]] = {
    "'chain', 'chain:+-#', 'chain:+-:3-8'": chain_task,
    "'25%chain:#:3-5,75%chain:*:3-5'": chain_mix,
    "'gym:chain_sum', 'gym:chain_sum:max_terms=3'": gym_task,
    "a benchmark such as 'math500' (lab task list)": benchmark,
    "'hub:openai/gsm8k:main:test'": hub_task,
    "'path/to/file.jsonl'": file_task,
}
"""How a task is typed -> the source that a text so formed names, or None; the first that reads a text wins."""


def task_source(text: str, reading: Reading = BY_RULE) -> TaskSource:
    """The source that a user names in one of the forms of `SOURCES`, its rows read as `reading` says.

    Raises TaskError for anything else; that a dataset or file exists is found out by `open_task`.
    """
    source = next((found for read in SOURCES.values() if (found := read(text)) is not None), None)
    if source is None:
        *forms, last = SOURCES
        near = meant(text.partition(":")[0], ("chain", "gym", "hub", *BENCHMARKS))
        raise TaskError(f"task {text!r}{near} is not one of {', '.join(forms)} or {last}")
    if isinstance(source, FileTask | HubTask):
        return replace(source, reading=reading.over(source.reading))
    return source


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Problems and the judge of their completions."""

    name: str
    """As a user would type the source."""
    problems: tuple[Problem, ...]
    judge: Judge = field(compare=False)
    found: Found | None = field(default=None, compare=False, repr=False)
    """Of rows, all of them, and how they were read."""

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


@dataclass(frozen=True, slots=True)
class AtMost:
    """A number of problems that nobody asked for: all there are, if they are fewer."""

    n: int


def open_task(
    source: TaskSource, *, n_problems: int | AtMost, seed: int, held_out: bool = True, but: Iterable[str] = ()
) -> Task:
    """The task of `n_problems` distinct problems of `source`, on its held-out side or, for fitting, its training side.

    The sides share no question, whatever the seeds. The same arguments give the same problems, and fewer problems are
    the first ones of more. Of rows, none asks what is in `but`. Raises TaskError where `n_problems` is below 1 or
    beyond what there is, and for every fault of the source.
    """
    # The import is here because it brings torch, and the command line names sources without it.
    from lab.records.seeds import numpy_generator

    n_asked = n_problems.n if isinstance(n_problems, AtMost) else n_problems
    if n_asked < 1:
        raise TaskError(f"task {source.typed!r}: asked for {n_asked} problems, want at least 1")
    generator = numpy_generator(seed, "problems", "held out" if held_out else "training")
    if not isinstance(source, FileTask | HubTask):
        problems = source.problems(n_asked, generator, held_out=held_out)
        return Task(name=source.typed, problems=problems, judge=source.judge(problems))
    found, side = source.found().without(but), None if source.whole else held_out
    n_there = len(found.side(side)) if isinstance(n_problems, AtMost) else n_asked
    problems = found.chosen(max(1, min(n_asked, n_there)), generator, held_out=side)
    # What judges some of its rows judges them all.
    return Task(name=source.typed, problems=problems, judge=source.judge(found.problems), found=found)


N_PROBLEMS = 200
"""Problems of a side where no number is asked for."""
N_WHOLE = 500
"""Held-out ones where all rows of a task may be: as many as MATH-500 has."""


class Sides(NamedTuple):
    """Two tasks that share no question, and how they came to be."""

    task: Task
    """Held out."""
    fit_task: Task
    told: tuple[str, ...]
    """Of rows, in a line each, how they were read and parted."""


def open_sides(
    source: TaskSource, fit_source: TaskSource | None, n_problems: int | None, n_fit_problems: int | None, *, seed: int
) -> Sides:
    """Both sides of `source`, which is split by question; or `source` held out, and `fit_source` to fit on.

    Of two, all rows of the first may be held out, and what both ask is taken from the second. Without a number there
    are as many problems as `N_PROBLEMS` or `N_WHOLE`, or all there are. Raises TaskError as `open_task` does.
    """
    is_whole = fit_source is not None and isinstance(source, FileTask | HubTask)
    n_held_out = AtMost(N_WHOLE if is_whole else N_PROBLEMS) if n_problems is None else n_problems
    n_fit = AtMost(N_PROBLEMS) if n_fit_problems is None else n_fit_problems
    if fit_source is None:
        task = open_task(source, n_problems=n_held_out, seed=seed)
        fit_task = open_task(source, n_problems=n_fit, seed=seed, held_out=False)
    else:
        task = open_task(_whole(source), n_problems=n_held_out, seed=seed)
        asked = () if task.found is None else task.found.questions
        fit_task = open_task(_whole(fit_source), n_problems=n_fit, seed=seed, held_out=False, but=asked)
        # Two files of one name may count their rows alike.
        taken = {problem.id for problem in task.problems}
        named = (replace(one, id=f"fit:{one.id}") if one.id in taken else one for one in fit_task.problems)
        fit_task = replace(fit_task, problems=tuple(named))
    return Sides(task, fit_task, tuple(_told(task, fit_task, has_fit_source=fit_source is not None)))


def require_rows(reading: Reading, *tasks: Task) -> None:
    """TaskError where `reading` says how rows are read, and none of `tasks` has any."""
    if reading != BY_RULE and all(task.found is None for task in tasks):
        raise TaskError(
            "--question-column, --answer-column, --skip-bad-rows, --suffix and --run-code say how rows are read, and "
            f"{tasks[0].name} has none: leave them out, or name a file, a data set or a benchmark"
        )


def _whole(source: TaskSource) -> TaskSource:
    return replace(source, whole=True) if isinstance(source, FileTask | HubTask) else source


def _told(task: Task, fit_task: Task, *, has_fit_source: bool) -> list[str]:
    read = [f"{each.name}: {each.found.described}" for each in (task, fit_task) if each.found is not None]
    n, n_fit = len(task.problems), len(fit_task.problems)
    if task.found is None:
        return read
    n_all = len(task.found.problems)
    if has_fit_source:
        return [*read, f"{n} of {n_all} problems are held out, {n_fit} of {fit_task.name} fit vectors"]
    return [read[0], f"no --fit-task: {n} of {n_all} problems are held out, {n_fit} fit vectors"]
