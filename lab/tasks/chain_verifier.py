"""The exact verifier of the chain world: reads any text, and judges the answer and every step apart.

The grammar is that of `lab.tasks.chain_documents`.
"""

import re
from dataclasses import dataclass

from lab.tasks.chain_world import OPERATORS, Expression, as_expression
from lab.tasks.problem import Problem
from lab.tasks.verdict import Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One written operation and the check behind it, if any."""

    left: int
    op: str
    right: int
    result: int
    check: int | None
    mended: bool

    @property
    def carried(self) -> int:
        """The value the next step should start from."""
        return self.check if self.mended and self.check is not None else self.result


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """What a completion says, as far as it can be read."""

    steps: tuple[Step, ...]
    answer: int | None
    answer_first: bool
    """An answer stands before the steps."""
    fault: str | None
    """Where the text leaves the grammar; None if it is whole."""


_STEP = re.compile(r"([0-9])([^0-9\s])([0-9])=([0-9]);(?:V([0-9])(!?);)?")
_ANSWER = re.compile(r"A([0-9])")


def parse(text: str) -> Transcript:
    """Reads any text without raising; the answer is the last one stated, the steps are those of the one chain.

    The closing `.` may be missing, since it is the end-of-sequence token and decoders drop it.
    """
    position, steps, answers, fault = 0, [], [], None
    chain_opened = answer_before_steps = False
    while position < len(text) and fault is None:
        if text[position:] == ".":
            break
        if found := _ANSWER.match(text, position):
            answers.append(int(found[1]))
            position = found.end()
        elif text[position] == "T" and not chain_opened:
            chain_opened = True
            answer_before_steps = bool(answers)
            position += 1
            while step := _STEP.match(text, position):
                left, op, right, result, check, mark = step.groups()
                steps.append(
                    Step(
                        left=int(left),
                        op=op,
                        right=int(right),
                        result=int(result),
                        check=None if check is None else int(check),
                        mended=mark == "!",
                    )
                )
                position = step.end()
        else:
            fault = f"unreadable at character {position}"
    if fault is None and len(answers) != 1:
        fault = "no answer" if not answers else "several answers"
    return Transcript(
        steps=tuple(steps), answer=answers[-1] if answers else None, answer_first=answer_before_steps, fault=fault
    )


def verify(problem: Problem, completion: str) -> Verdict:
    """The exact verdict on a completion of a chain problem.

    The process is valid when every step copies its operator and operands from the problem and the running value, every
    equation is true (a slip that its own check mends counts as true), no check is wrong, all operations are there, and
    the final answer is the last result. A direct answer shows no process and is not valid.
    """
    expression = as_expression(problem)
    transcript = parse(completion)
    fault = transcript.fault or process_fault(expression, transcript)
    answer_correct = str(transcript.answer) == problem.answer and transcript.fault != "several answers"
    return Verdict(answer_correct=answer_correct, process_valid=fault is None, reason=fault or "ok")


def chain_answer(completion: str) -> str | None:
    """The answer that a completion states last, if any."""
    answer = parse(completion).answer
    return None if answer is None else str(answer)


def process_fault(expression: Expression, transcript: Transcript) -> str | None:
    """The first fault of a readable transcript, or None: of its steps, or an answer that is not their last result."""
    if fault := steps_fault(expression, transcript):
        return fault
    return None if transcript.answer == transcript.steps[-1].carried else "answer is not the last result"


def steps_fault(expression: Expression, transcript: Transcript) -> str | None:
    """The first fault of the steps, or None: every one copied and true, none missing or too many, no check wrong.

    The answer, and text other than steps, are not judged.
    """
    if not transcript.steps:
        return "no steps"
    value = expression.operands[0]
    wanted = list(zip(expression.operators, expression.operands[1:], strict=True))
    for number, (step, (op, operand)) in enumerate(zip(transcript.steps, wanted, strict=False), start=1):
        if (step.left, step.op, step.right) != (value, op, operand):
            return f"step {number} copies {step.left}{step.op}{step.right} for {value}{op}{operand}"
        truth = OPERATORS[op](value, operand)
        if step.check is not None and step.check != truth:
            return f"check {number} is wrong"
        if step.carried != truth:
            return f"step {number} is false"
        value = step.carried
    if len(transcript.steps) != len(wanted):
        return f"{len(transcript.steps)} steps for {len(wanted)}"
    return None
