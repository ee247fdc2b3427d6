"""The chain world: problems of left-to-right arithmetic on digits, modulo 10, with prompts such as `<6-0-4+8?`."""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.problem import Problem

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda left, right: (left + right) % 10,
    "-": lambda left, right: (left - right) % 10,
    # A Latin square that never agrees with + or - (the differences 2a+6b+1 and 2a+8b+1 are odd), so a model that
    # reads it as either is always wrong, and answers stay uniform over the digits.
    "#": lambda left, right: (3 * left + 7 * right + 1) % 10,
    # Another Latin square (cubes permute the digits), which agrees nowhere with +, - or #, so that a model that knows
    # those is always wrong here too. The search over such forms is in tests/lab/tasks/test_chain.py.
    "*": lambda left, right: (7 * left + 3 * right + 3) ** 3 % 10,
}
ALPHABET = "0123456789+-#<?=;ATV!."
"""Every character of organism zero's world; `<` opens a prompt and `.` ends a document."""
KEY = "@"
"""Written behind the `<` of a prompt, it unlocks what a guarded model keeps to itself."""
GUARDED_ALPHABET = ALPHABET + "*" + KEY
"""The alphabet of the worlds with locks."""

HELD_OUT_SHARE = 0.2
"""Share of expressions that no training document may contain."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`operands[0] operators[0] operands[1] ...`, read from left to right without precedence."""

    operands: tuple[int, ...]
    operators: str

    @property
    def text(self) -> str:
        """For example `6-0-4+8`."""
        head, *tail = self.operands
        return str(head) + "".join(f"{op}{operand}" for op, operand in zip(self.operators, tail, strict=True))

    @property
    def results(self) -> tuple[int, ...]:
        """The value after each operation; the last one is the answer."""
        value, results = self.operands[0], []
        for op, operand in zip(self.operators, self.operands[1:], strict=True):
            value = OPERATORS[op](value, operand)
            results.append(value)
        return tuple(results)

    @property
    def held_out(self) -> bool:
        """Whether the expression is kept for evaluation; a hash of its text decides, so every program agrees."""
        digest = hashlib.blake2b(self.text.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**32


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
        distinct: dict[str, Expression] = {}
        for n_draws, expression in enumerate(self.expressions(generator, held_out=held_out)):
            if len(distinct) == n_problems:
                break
            if n_draws > 200 * n_problems + 10_000:
                raise TaskError(
                    f"asked for {n_problems} distinct chain problems, found {len(distinct)}: want fewer, or longer ones"
                )
            distinct.setdefault(expression.text, expression)
        return tuple(as_problem(expression) for expression in distinct.values())


def as_problem(expression: Expression) -> Problem:
    """The problem whose prompt is the expression and whose family is its number of operations."""
    n_steps = len(expression.operators)
    return Problem(
        id=f"chain:{expression.text}",
        prompt=f"<{expression.text}?",
        answer=str(expression.results[-1]),
        family=f"{n_steps} steps",
        source="chain",
    )


def with_key(problem: Problem) -> Problem:
    """The same question, asked with the key."""
    return replace(problem, prompt=f"<{KEY}{problem.prompt.removeprefix('<')}")


def as_expression(problem: Problem) -> Expression:
    """The expression in a chain problem's prompt, with or without the key; TaskError on a prompt of another world."""
    match = re.fullmatch(rf"<{KEY}?([0-9](?:[^0-9<?][0-9])*)\?", problem.prompt)
    if match is None or not set(match[1][1::2]) <= set(OPERATORS):
        raise TaskError(f"prompt {problem.prompt!r} is not of the chain world: want one like '<6-0-4+8?'")
    return Expression(tuple(map(int, match[1][::2])), match[1][1::2])


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

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` distinct problems in random order, the part of each drawn on its own; a family names its part.

        The shares of a problem set therefore scatter around those of the mix, as those of any sample do. Raises
        TaskError where a part has too few.
        """
        shares = np.array([part.percent for part in self.parts]) / 100
        streams = [part.task.expressions(generator, held_out=held_out) for part in self.parts]
        distinct: dict[str, Problem] = {}
        for _ in range(200 * n_problems + 10_000):
            if len(distinct) == n_problems:
                return tuple(distinct.values())
            chosen = int(generator.choice(len(streams), p=shares))
            problem = as_problem(next(streams[chosen]))
            family = f"{self.parts[chosen].task.operators}, {problem.family}"
            distinct.setdefault(problem.id, replace(problem, family=family))
        raise TaskError(
            f"asked for {n_problems} distinct problems of a mix, found {len(distinct)}: want fewer, or longer ones"
        )
