"""A mix of chain tasks in given proportions, so that a problem set can be, say, a quarter of one skill."""

from dataclasses import dataclass, replace

import numpy as np

from lab.errors import TaskError
from lab.tasks.chain_world import ChainTask, as_problem
from lab.tasks.problem import Problem


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
