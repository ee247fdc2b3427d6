r"""The verifier of mathematical answers, and the only door to math_verify, which runs in a worker.

Plain numbers are compared exactly here. Everything else (roots, sets, intervals, matrices, polynomials) is compared
by math_verify, after its LaTeX grammar; its Python-expression grammar is never used, since that evaluates the text.
"""

import re

from lab.tasks.final_answer import as_ratio, final_answer, tidied
from lab.tasks.problem import Problem, Verdict
from lab.tasks.worker import Answered, Failed, Request, Worker

TIMEOUT_S = 5.0
"""Processor time for one comparison, the default of math_verify."""
LONGEST = 500
"""Characters of the longest answer that is read."""

_NUMBER_IN_WORDS = re.compile(r"\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}]*[0-9]")

_WORKER = Worker("lab.tasks.math_answer:compare", package="math-verify", prepare="lab.tasks.math_answer:prepare")


def verify(problem: Problem, completion: str) -> Verdict:
    """Whether the final answer of `completion`, by the rules of `lab.tasks.final_answer`, equals the gold answer.

    Never raises on any text: an answer that cannot be read or compared in time is wrong, and the reason says so. The
    process is not checked. Raises TaskError only where math-verify cannot be used.
    """
    answer = final_answer(completion)
    fault = "no final answer" if answer is None else difference(problem.answer, answer)
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok")


def difference(gold: str, answer: str, *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why `answer` does not equal `gold`, or None."""
    if answer == gold or answer == tidied(gold):
        return None
    if len(answer) > LONGEST:
        return f"answer of {len(answer)} characters"
    wanted, came = as_ratio(tidied(gold) or gold), as_ratio(answer)
    if wanted is not None and came is not None:
        return None if wanted == came else "another number"
    # math_verify reads one of several formulas, and drops a number in words behind another.
    in_words = _NUMBER_IN_WORDS.search(answer, 1) and not _NUMBER_IN_WORDS.search(gold)
    if in_words or "$" in answer or "\n" in answer or r"\boxed" in answer:
        return "more than one formula"
    match _WORKER.ask({"gold": gold, "answer": answer}, timeout_s=timeout_s):
        case Answered({"equal": True}):
            return None
        case Answered():
            return "another answer"
        case Failed(reason):
            return reason


def prepare() -> None:
    """In a new worker: imports math_verify and tries it, so that a broken installation judges no answer."""
    if compare({"gold": r"\frac{1}{2}", "answer": r"\frac{2}{4}"}) != {"equal": True}:
        raise RuntimeError("it finds 2/4 different from 1/2")


def compare(request: Request) -> Request:
    """In the worker: whether math_verify finds `answer` equal to `gold`."""
    from math_verify import LatexExtractionConfig, parse, verify

    gold, answer = (
        parse(
            rf"\boxed{{{request[key]}}}",
            extraction_config=[LatexExtractionConfig()],
            fallback_mode="no_fallback",
            parsing_timeout=0,
            raise_on_error=True,
        )
        for key in ("gold", "answer")
    )
    # Six places, its default, would take 3.14159265 for pi.
    equal = verify(gold, answer, float_rounding=12, timeout_seconds=None, raise_on_error=True)
    return {"equal": bool(gold and answer and equal)}
