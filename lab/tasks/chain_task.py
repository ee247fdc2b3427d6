"""ChainTask and ChainMix: tasks of the chain world."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.chain import CHAIN, OPERATORS, Expression, as_problem
from lab.tasks.problem import Judge, Problem


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
