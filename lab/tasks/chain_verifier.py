"""The exact verifier of the chain world: reads any text, and judges the answer and every step apart.

The grammar is that of `lab.tasks.chain_world`.
"""

import operator
import re
from dataclasses import dataclass

from lab.tasks.chain_world import OPERATORS, Expression, as_expression
from lab.tasks.problem import Cut, Falsified, Judge, Problem, Span, StepGrammar, Verdict


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


_ANSWER_SPAN = re.compile(r"A[0-9]")
_N_STEP = len("6-0=6;")


def spans(problem: Problem, completion: str) -> tuple[Span, ...]:
    """The labelled parts of any text, in order, up to where it leaves the grammar of `lab.tasks.chain_world`.

    `open`: the `T` of the chain. `step`: an equation that starts from the value carried, takes the problem's next
    operator and operand, and is true; `slip`: any other equation. After a slip the value carried is the one written, so
    a true step may follow. `check` (`V4;`) and `mend` (`V4!;`) go by their form, whether they are right or not.
    `answer`: `A0` behind a worked step; `direct`: `A0` without one before it. The end mark has no label.
    Raises TaskError where the problem is of another world, and never for the text.
    """
    found: list[Span] = []
    position, opened, worked = 0, False, False
    while position < len(completion):
        if _ANSWER_SPAN.match(completion, position):
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


def cuts(problem: Problem, completion: str) -> tuple[Cut, ...]:
    """`""`, `T6-0=6;`, `T6-0=6;6-4=2;`, ... of a chain whose steps are all true; checks are left out."""
    transcript = parse(completion)
    if transcript.answer_first or steps_fault(as_expression(problem), transcript) is not None:
        return ()
    text, states, found = "T", frozenset[str](), [Cut("", frozenset())]
    for step in transcript.steps:
        text += f"{step.left}{step.op}{step.right}={step.carried};"
        states |= {str(step.carried)}
        found.append(Cut(text, states))
    return tuple(found)


def falsify(problem: Problem, cut: Cut) -> Falsified:
    """The last result moved up by one to three, by the digits before it, and the answer that then follows."""
    expression = as_expression(problem)
    n_read = cut.text.count(";")
    true = int(cut.text[-2])
    value = (true + 1 + (n_read + expression.operands[0]) % 3) % 10
    text = f"{cut.text[:-2]}{value};"
    for op, operand in zip(expression.operators[n_read:], expression.operands[n_read + 1 :], strict=True):
        value = OPERATORS[op](value, operand)
    return Falsified(text, str(value))


CHAIN_STEPS = StepGrammar(ask="A", cuts=cuts, falsify=falsify, spans=spans)
CHAIN = Judge(name="chain", verify=verify, read_answer=chain_answer, same_answer=operator.eq, steps=CHAIN_STEPS)
