r"""Whether two mathematical answers are one, and the verifier that asks it: the only door to math_verify, in a worker.

Plain numbers are compared exactly here. Everything else (roots, sets, intervals, matrices, polynomials) is compared
by math_verify, after its LaTeX grammar; its Python-expression grammar is never used, since that evaluates the text.
"""

import functools
import re
from collections.abc import Iterator
from fractions import Fraction

from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.stated_answer import LONGEST, NUMBER, Stated, stated_answer, tidied
from lab.tasks.worker import Answered, Failed, Request, Worker

TIMEOUT_S = 5.0
"""Processor time for one comparison, the default of math_verify."""

_WORKER = Worker("lab.tasks.math_answer:compare", package="math-verify", prepare="lab.tasks.math_answer:prepare")

_RATIO = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<plain>{NUMBER})|(?P<over>[0-9]+)/(?P<under>[0-9]+)"
    r"|\\[dtc]?frac\s*(?:\{\s*(?P<num>-?[0-9]+)\s*\}|(?P<n>[0-9]))\s*(?:\{\s*(?P<den>[0-9]+)\s*\}|(?P<d>[0-9])))"
)
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\in(?![a-z])")
_COMMA_DECIMAL = re.compile(r"([-+]?[0-9]+),([0-9]+)")
_WORDED = re.compile(r"\\(?:text|mathrm|mbox|textbf|textrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_NUMBER_IN_WORDS = re.compile(r"\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}]*[0-9]")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|\\[,;!: ]|\s")
_QUANTITY = re.compile(
    r"\\?[$€£]?\s*(?P<number>-?[0-9][0-9.,]*(?:\s*(?:\\times|\\cdot)\s*10\s*\^\s*(?:\{-?[0-9]+\}|[0-9]))?)\s*(?:\\?%|\^?\{?\\circ\}?"
    r"|[A-Za-z°/]+(?:\^?\{?-?[0-9]\}?)?|\\(?:text|mathrm|mbox|textbf|textrm)\s*\{[^{}]*\}(?:\^?\{?-?[0-9]\}?)?|\s)*"
)


def final_answer(text: str) -> str | None:
    """The answer that `text` states, by the rules of `stated_answer`, or None."""
    found = stated_answer(text)
    return None if found is None else found.answer


def as_ratio(answer: str) -> Fraction | None:
    r"""The exact value of a plain integer, decimal or fraction, such as `1,000`, `1 000`, `-0.5`, `1/2`, `\frac12`.

    A comma with other than three digits behind it, or nothing but 0 before it, is a decimal comma.
    """
    answer = re.sub(r"\\left(?![a-z])|\\right(?![a-z])|\\;", "", answer).strip().replace("\u2212", "-")
    if len(answer) > 1000:
        return None
    decimal = _COMMA_DECIMAL.fullmatch(answer)
    if decimal and (len(decimal[2]) != 3 or decimal[1].lstrip("+-") == "0"):
        return Fraction(f"{decimal[1]}.{decimal[2]}")
    match = _RATIO.fullmatch(answer)
    if match is None:
        return None
    if match["plain"]:
        value = Fraction(re.sub(r"[^0-9.]", "", match["plain"]))
    else:
        over, under = (
            int(match["over"] or match["num"] or match["n"]),
            int(match["under"] or match["den"] or match["d"]),
        )
        if not under:
            return None
        value = Fraction(over, under)
    return -value if match["sign"] == "-" else value


def same_answer(answer: str, gold: str) -> bool:
    r"""Whether two answers are one: equal once tidied, white space apart, or plain numbers of one exact value.

    Made for comparing every answer with every gold answer, it asks no verifier and leaves out what only one can tell:
    formulas in two forms (`\sqrt{8}` and `2\sqrt{2}`), reordered sets, units and other text around a number, and, in
    reasoning-gym, another right answer than the gold one. What it counts that a verifier may not is a number in another
    form (`7.0` for `7`) where the dataset wants the text.
    """
    return _key(answer) == _key(gold)


@functools.lru_cache(maxsize=4096)
def _key(answer: str) -> Fraction | tuple[tuple[str, ...], ...]:
    plain = tidied(answer) or answer
    value = as_ratio(plain)
    return tuple(tuple(line.split()) for line in plain.splitlines()) if value is None else value


def verify(problem: Problem, completion: str) -> Verdict:
    """Whether the answer that `completion` states, by the rules of `stated_answer`, equals the gold answer.

    Never raises on any text: an answer that cannot be read or compared in time is wrong, and the reason says so. The
    process is not checked. Raises TaskError only where math-verify cannot be used.
    """
    found = stated_answer(completion)
    fault = "no final answer" if found is None else difference(problem.answer, found.answer)
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok")


def difference(gold: str, answer: str, *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why `answer` does not equal `gold`, or None."""
    if len(answer) > LONGEST:
        return f"answer of {len(answer)} characters"
    wanted = (stated_answer(gold) or Stated(gold, "whole")).answer
    if answer in (gold, wanted) or _bare(answer) == _bare(wanted):
        return None
    ratios = as_ratio(wanted), as_ratio(answer)
    if None not in ratios:
        return None if ratios[0] == ratios[1] else "another number"
    if _NUMBER_IN_WORDS.search(answer, 1) and not _NUMBER_IN_WORDS.search(wanted):
        # math_verify drops a number in words behind another.
        return "more than one formula"
    fault = "another answer"
    for pair in dict.fromkeys(_readings(wanted, answer)):
        match _WORKER.ask(dict(zip(("gold", "answer"), pair, strict=True)), timeout_s=timeout_s):
            case Answered({"equal": True}):
                return None
            case Answered():
                pass
            case Failed(reason):
                fault = reason
    return fault


def _bare(answer: str) -> str:
    """Without what only sets type: spacing, and words as text; a word or a letter alone, also in brackets, in small."""
    bare = _SPACING.sub("", _WORDED.sub(r"\1", answer))
    return bare.strip("()").lower() if re.fullmatch(r"\(?[A-Za-z]+\)?", bare) else bare


def _readings(gold: str, answer: str) -> Iterator[tuple[str, str]]:
    """Both answers as LaTeX; then without what they are said to be equal to; then without units."""
    pair = (_latex(gold), _latex(answer))
    yield pair
    pair = (_right_side(pair[0], pair[1]), _right_side(pair[1], pair[0]))
    yield pair
    yield _number(pair[0]), _number(pair[1])


def _latex(answer: str) -> str:
    """Programs' notation of powers, products and roots as LaTeX."""
    answer = answer.replace("**", "^").replace(r"\!", "").replace("\u2212", "-")
    answer = re.sub(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)", r"\\sqrt{\1}", answer)
    answer = re.sub(r"(?<=[\w)}])\s*\*\s*(?=[\w({\\])", r" \\cdot ", answer)
    return re.sub(r"\\+([dtc]?frac)\s*(?=[{0-9])", r"\\\1", answer)


def _right_side(answer: str, other: str) -> str:
    r"""What stands behind the only equals sign or `\in`, where a name stands before it.

    Or a sum of numbers, if `other` has no such sign. The two sides of other equations stay together.
    """
    name, *rest = _EQUALS.split(answer)
    is_name = re.search(r"[A-Za-z]", name) is not None and re.search(r"[-+*/<>]|\\frac|\\sqrt|[0-9]\s*$", name) is None
    is_sum = re.search(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", name)) is None and _EQUALS.search(other) is None
    return rest[0].strip() if (is_name or is_sum) and len(rest) == 1 and rest[0].strip() else answer


def _number(answer: str) -> str:
    """The number of a number with a unit."""
    quantity = _QUANTITY.fullmatch(answer.strip("[] "))
    return quantity["number"] if quantity else answer


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


MATH = Judge(name="math", verify=verify, read_answer=final_answer, same_answer=same_answer)
