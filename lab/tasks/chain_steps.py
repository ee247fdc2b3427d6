"""The chain world's step grammar: chains cut after each step, falsified at the last, and labelled."""

from lab.tasks.chain_spans import spans
from lab.tasks.chain_verifier import parse, steps_fault
from lab.tasks.chain_world import OPERATORS, as_expression
from lab.tasks.problem import Problem
from lab.tasks.step_grammar import Cut, Falsified, StepGrammar


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
