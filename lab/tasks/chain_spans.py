"""spans: what each part of a chain completion is, character by character."""

import re

from lab.tasks.chain_verifier import Step, parse
from lab.tasks.chain_world import OPERATORS, as_expression
from lab.tasks.problem import Problem
from lab.tasks.step_grammar import Span

_ANSWER = re.compile(r"A[0-9]")
_N_STEP = len("6-0=6;")


def spans(problem: Problem, completion: str) -> tuple[Span, ...]:
    """The labelled parts of any text, in order, up to where it leaves the grammar of `lab.tasks.chain_documents`.

    `open`: the `T` of the chain. `step`: an equation that starts from the value carried, takes the problem's next
    operator and operand, and is true; `slip`: any other equation. After a slip the value carried is the one written, so
    a true step may follow. `check` (`V4;`) and `mend` (`V4!;`) go by their form, whether they are right or not.
    `answer`: `A0` behind a worked step; `direct`: `A0` without one before it. The end mark has no label.
    Raises TaskError where the problem is of another world, and never for the text.
    """
    found: list[Span] = []
    position, opened, worked = 0, False, False
    while position < len(completion):
        if _ANSWER.match(completion, position):
            found.append(Span(position, position + 2, "answer" if worked else "direct"))
            position += 2
        elif completion[position] == "T" and not opened:
            opened = True
            found.append(Span(position, position + 1, "open"))
            steps = _step_spans(problem, parse(completion).steps, position + 1)
            worked = bool(steps)
            found += steps
            position = found[-1].end
        else:
            break
    return tuple(found)


def _step_spans(problem: Problem, steps: tuple[Step, ...], start: int) -> list[Span]:
    """The equations and checks of the chain whose first step begins at `start`."""
    expression = as_expression(problem)
    found, carried = [], expression.operands[0]
    wanted = dict(enumerate(zip(expression.operators, expression.operands[1:], strict=True)))
    for number, step in enumerate(steps):
        copied = step.left == carried and (step.op, step.right) == wanted.get(number)
        true = copied and step.result == OPERATORS[step.op](step.left, step.right)
        found.append(Span(start, start + _N_STEP, "step" if true else "slip"))
        start += _N_STEP
        if step.check is not None:
            written, label = ("V4!;", "mend") if step.mended else ("V4;", "check")
            found.append(Span(start, start + len(written), label))
            start += len(written)
        carried = step.carried
    return found
