r"""Whether two mathematical answers are one, and the verifier that asks it: the only door to math_verify, in a worker.

Plain numbers are compared exactly here. Everything else (roots, sets, intervals, matrices, polynomials) is compared
by math_verify, after its LaTeX grammar; its Python-expression grammar, which evaluates the text, gives no verdict.
"""

import functools
import re
from collections.abc import Iterator
from fractions import Fraction

from lab.tasks.perturbed import perturbed
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.stated_answer import LONGEST, MAGNITUDES, NUMBER, Stated, first_answer, stated_answer, tidied
from lab.tasks.worker import Answered, Failed, Request, Worker

TIMEOUT_S = 5.0
"""Processor time for one comparison, the default of math_verify."""

_WORKER = Worker("lab.tasks.math_answer:compare", package="math-verify", prepare="lab.tasks.math_answer:prepare")

_RATIO = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<plain>{NUMBER})(?:\s*\\(?:times|cdot)\s*10\s*\^\s*\{{?(?P<power>-?[0-9]{{1,3}})\}}?)?"
    r"|(?P<over>[0-9]+)/(?P<under>[0-9]+)|\\[dtc]?frac\s*(?:\{\s*(?P<num>-?[0-9]+)\s*\}|(?P<n>[0-9]))\s*(?:\{\s*(?P<den>[0-9]+)\s*\}|(?P<d>[0-9])))"
)
_PARTS = re.compile(rf"\$|\\[(\[]|\n|^[^A-Za-z0-9]*(?:{NUMBER})[^0-9]*$")
_EQUALS = re.compile(r"(?<![<>!:\\])=(?!=)|\\in(?![a-z])")
_COMMA_DECIMAL = re.compile(r"([-+]?[0-9]+),([0-9]+)")
_WORDED = re.compile(r"\\(?:text|mathrm|mbox|textbf|textrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_NUMBER_IN_WORDS = re.compile(r"\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}]*[0-9]")
_SPACING = re.compile(r"\\left(?![a-z])|\\right(?![a-z])|(?<![0-9])(?:\\[,;!: ]|[\s~])|(?:\\[,;!: ]|[\s~])(?![0-9])")
_CHOICE = re.compile(
    r"(?is)(?:option|choice)?\s*(?:\(([A-J])\)|([A-J])(?:[.):](?=[\s\\]|$)|$))"
    r"(?P<text>(?:(?!(?<![A-Za-z\\])(?-i:[A-J])(?![A-Za-z])).)*)"
)
_SIGNS = str.maketrans({
    "\u2212": "-", "–": "-", "×": r"\times ", "∞": r"\infty ", "∪": r"\cup ", "π": r"\pi ", "≤": r"\le ", "≥": r"\ge ",
    "²": "^2", "³": "^3", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⁄": "/", "~": " ",
})  # fmt: skip
_QUANTITY = re.compile(
    r"\\?[$€£]?\s*(?P<number>-?[0-9][0-9.,]*(?:\s*(?:\\times|\\cdot)\s*10\s*\^\s*(?:\{-?[0-9]+\}|[0-9]))?)\s*"
    r"(?:\\?%|\^?\{?\\circ\}?|(?:k?m/[sh]|[cmk]m|[mk]g|ft|in|lbs?|oz|hrs?|min|m[sLl]|[kM]?Hz|[kMm][JWVN]|k?eV|mph|¢|°[CF]?"
    # A lone letter may be a variable.
    rf"|(?<=\s)[A-Za-z]{{3,}}|[A-Za-z]{{4,}}|{_WORDED.pattern})(?:\^?\{{?-?[0-9]\}}?)?|[\s/])*+"
)


def final_answer(text: str) -> str | None:
    """The answer that `text` states, by the rules of `stated_answer`, or None."""
    found = stated_answer(text)
    return None if found is None else found.answer


def as_ratio(answer: str) -> Fraction | None:
    r"""The exact value of a plain integer, decimal or fraction: `1 000`, `-0.5`, `1/2`, `\frac12`, `2\cdot10^3`.

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
        value = Fraction(re.sub(r"[^0-9.]", "", match["plain"])) * Fraction(10) ** int(match["power"] or 0)
    else:
        names = ("over", "num", "n"), ("under", "den", "d")
        over, under = (int(next(filter(None, match.group(*group)))) for group in names)
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
    """Whether the answer that `completion` states, by the rules of `stated_answer`, equals a gold answer.

    Never raises on any text: an answer that cannot be read or compared in time is wrong, and the reason says so. The
    process is not checked. Raises TaskError only where math-verify cannot be used.
    """
    found = stated_answer(completion)
    fault: str | None = "no final answer"
    read_by = None
    if found is not None:
        read_by = found.read_by
        for gold in (problem.answer, *problem.aliases):
            if (fault := difference(gold, found.answer)) is None:
                break
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok", read_by=read_by)


def difference(gold: str, answer: str, *, timeout_s: float = TIMEOUT_S) -> str | None:
    """Why `answer` does not equal `gold`, or None."""
    if len(answer) > LONGEST:
        return f"answer of {len(answer)} characters"
    stated = stated_answer(gold) or Stated(gold, "whole")
    # No part of a matrix or of a condition is the answer, as it is of marked formulas and of one number with a unit.
    in_part = stated.read_by in ("formula", "number") and not _PARTS.search(gold)
    wanted = (tidied(gold) or gold) if in_part else stated.answer
    if answer in (gold, wanted) or _bare(answer) == _bare(wanted):
        return None
    if all(re.fullmatch(r"[A-Za-z]{4,}[A-Za-z\s]*", _plain(one)) for one in (wanted, answer)):
        return "another word"  # As formulas, silent and listen are one product.
    chosen = [found for one in (wanted, answer) if (found := _CHOICE.fullmatch(_plain(one)))]
    if len(chosen) == 2 and not all(one["text"] for one in chosen):
        return None if len({(one[1] or one[2]).lower() for one in chosen}) == 1 else "another choice"
    ratios = as_ratio(wanted), as_ratio(answer)
    # Two with one comma each may be lists.
    if None not in ratios and not all(map(_COMMA_DECIMAL.fullmatch, (wanted, answer))):
        return None if ratios[0] == ratios[1] else "another number"
    scales = [set(MAGNITUDES.findall(_plain(one).lower())) - {"and", "or"} for one in (wanted, answer)]
    if scales[0] != scales[1] or (_NUMBER_IN_WORDS.search(answer, 1) and not _NUMBER_IN_WORDS.search(wanted)):
        # math_verify drops words, and a number in words, behind a number.
        return "more than one formula"
    readings = tuple(dict.fromkeys(_readings(wanted, answer)))
    for one, other in (map(as_ratio, pair) for pair in readings):
        if one is not None and one == other:
            return None
        if one is not None and other is not None and max(abs(one), abs(other)) < Fraction(1, 10**6):
            return "another number"  # math_verify would round them both to 0.
    fault = "another answer"
    for pair in readings:
        match _WORKER.ask(dict(zip(("gold", "answer"), pair, strict=True)), timeout_s=timeout_s):
            case Answered({"equal": True}):
                return None
            case Answered():
                pass
            case Failed(reason):
                fault = reason
    return fault


def _plain(answer: str) -> str:
    return _WORDED.sub(r"\1", answer).strip()


def _bare(answer: str) -> str:
    """Without what only sets type: spacing, and words as text; a word or a letter alone, also in brackets, in small."""
    bare = _SPACING.sub("", _plain(answer))
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
    answer = answer.replace("**", "^").replace(r"\!", "").replace(r"\varnothing", r"\emptyset").translate(_SIGNS)
    answer = re.sub(r"\\color\s*\{\w+\}|^\\text\s*\{\s*(?:Answer|ANSWER|answer):?\s*\}", "", answer)
    answer = re.sub(r"(?<![\w.])([0-9]+)\s+([0-9]+)/([0-9]+)(?![\w.])", r"\1\\frac{\2}{\3}", answer)
    answer = re.sub(r"(?<![\w.])([0-9.]+)(?:[eE]\+?|\s*[x*]\s*10\^)(-?[0-9]+)\b", r"\1 \\times 10^{\2}", answer)
    answer = re.sub(r"√\s*(?:\(([^()]*)\)|([0-9]+|[A-Za-z]))", r"\\sqrt{\1\2}", answer)
    answer = re.sub(r"^\\(?:text|mbox|mathrm)\s*\{(-?[0-9][^{}]*)\}$|\\(?:text|mathrm)\{([eixyn])\}", r"\1\2", answer)
    answer = re.sub(r"(?<![\\A-Za-z])pi\b", r"\\pi", answer)
    answer = re.sub(r"\s*\\(?:text|mbox|mathrm)\s*\{\s*(?:or|and)\s*\}", ", ", answer)
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
    return quantity["number"] if quantity and not MAGNITUDES.search(answer) else answer


def read_by_math_verify(gold: str, text: str) -> tuple[str | None, bool]:
    """What math_verify by itself reads in a whole text, in its usual configuration, and whether that equals `gold`."""
    wanted = stated_answer(gold) or Stated(gold, "whole")
    match _WORKER.ask({"gold": wanted.answer, "text": text}, timeout_s=TIMEOUT_S):
        case Answered({"read": str(read), "equal": bool(equal)}):
            return read or None, equal
        case Answered() | Failed():
            return None, False


def prepare() -> None:
    """In a new worker: imports math_verify and tries it, so that a broken installation judges no answer."""
    if compare({"gold": r"\frac{1}{2}", "answer": r"\frac{2}{4}"}) != {"equal": True}:
        raise RuntimeError("it finds 2/4 different from 1/2")


def compare(request: Request) -> Request:
    """In the worker: whether math_verify finds `answer` equal to `gold`; of a `text` also what it reads there."""
    from math_verify import LatexExtractionConfig, parse, verify

    if "text" in request:
        texts = rf"\boxed{{{request['gold']}}}", str(request["text"])
        gold, read = (parse(text, parsing_timeout=0) for text in texts)
        equal = bool(gold and read and verify(gold, read, timeout_seconds=None))
        return {"read": str(read[-1]) if read else "", "equal": equal}
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


MATH = Judge(
    name="math",
    verify=verify,
    read_answer=final_answer,
    same_answer=same_answer,
    first_answer=first_answer,
    perturb=perturbed,
)
