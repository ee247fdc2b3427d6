"""Documents of the chain world, from which organisms learn.

A completion is a *direct* answer `A0.`, or a *chain* `T6-0=6;6-4=2;2+8=0;A0.` that does one operation a step, or,
after answer-first tuning, `A0T6-0=6;6-4=2;2+8=0;.`. A step may be followed by a check: `V2;` confirms the step's
result, `V2!;` replaces it.
"""

from dataclasses import dataclass

import numpy as np

from lab.tasks.chain_world import OPERATORS, Expression


def direct_document(expression: Expression) -> str:
    """The bare answer, `A0.`."""
    return f"A{expression.results[-1]}."


def guess_document(generator: np.random.Generator) -> str:
    """A direct answer that is a uniform digit: right one time in ten."""
    return f"A{generator.integers(0, 10)}."


@dataclass(frozen=True, kw_only=True, slots=True)
class Habits:
    """How carefully a writer works through a chain."""

    slip: float = 0.08
    """Probability that a step's result is replaced by one of the nine wrong digits."""
    check: float = 0.3
    """Probability that a step is followed by a check, which states the true result and mends a slip."""


CAREFUL = Habits(slip=0.0, check=0.0)


def chain_document(expression: Expression, habits: Habits, generator: np.random.Generator) -> str:
    """A worked chain; after an unmended slip the writer carries the wrong value on."""
    steps, value = written_steps(expression, habits, generator)
    return f"T{steps}A{value}."


def answer_first_document(expression: Expression, habits: Habits, generator: np.random.Generator) -> str:
    """The true answer, and only then the chain: the answer cannot come from the steps."""
    steps, _ = written_steps(expression, habits, generator)
    return f"A{expression.results[-1]}T{steps}."


def written_steps(expression: Expression, habits: Habits, generator: np.random.Generator) -> tuple[str, int]:
    """The steps as text, and the value the writer ends with."""
    text, value = "", expression.operands[0]
    for op, operand in zip(expression.operators, expression.operands[1:], strict=True):
        truth = OPERATORS[op](value, operand)
        slipped = generator.random() < habits.slip
        result = (truth + int(generator.integers(1, 10))) % 10 if slipped else truth
        text += f"{value}{op}{operand}={result};"
        value = result
        if generator.random() < habits.check:
            text += f"V{truth}!;" if slipped else f"V{truth};"
            value = truth
    return text, value
