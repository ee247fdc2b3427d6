r"""The final answer that a mathematical text states, and its verifier: the only door to math_verify, in a worker.

Plain numbers are compared exactly here. Everything else (roots, sets, intervals, matrices, polynomials) is compared
by math_verify, after its LaTeX grammar; its Python-expression grammar is never used, since that evaluates the text.
"""

import functools
import re
from fractions import Fraction

from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.worker import Answered, Failed, Request, Worker

TIMEOUT_S = 5.0
"""Processor time for one comparison, the default of math_verify."""
LONGEST = 500
"""Characters of the longest answer that is read."""

_NUMBER_IN_WORDS = re.compile(r"\\(?:text|mbox|mathrm)[a-z]*\s*\{[^{}]*[0-9]")

_WORKER = Worker("lab.tasks.math_answer:compare", package="math-verify", prepare="lab.tasks.math_answer:prepare")

_BOX_PARTS = re.compile(r"\\(?:boxed|fbox)\s*(?P<box>\{)|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]*)")
_STATED = re.compile(r"\banswer\s+is\b[ \t]*:?[ \t]*([^\n]*)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|;\s")
_NUMBER = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_LAST_NUMBER = re.compile(rf"(?:(?<![\w.)\]}}])-)?(?:{_NUMBER})(?:/[0-9]+(?![0-9.]))?")
_RATIO = re.compile(
    rf"(?P<sign>[-+]?)(?:(?P<plain>{_NUMBER})|(?P<over>[0-9]+)/(?P<under>[0-9]+)"
    r"|\\[dt]?frac(?:\{(?P<num>-?[0-9]+)\}\{(?P<den>[0-9]+)\}|(?P<n>[0-9])(?P<d>[0-9])))"
)
_MAGNITUDES = {"not", "half", "hundred", "thousand", "million", "billion", "trillion", "dozen", "percent", "or", "and"}


def final_answer(text: str) -> str | None:
    r"""The final answer of `text`, tidied, or None; never raises.

    The first rule that finds something decides: the content of the last closed `\boxed{}`; what follows the last
    `####` on its line; what follows the last "answer is" in its sentence (only the number, where that is one number
    among plain words); the last number of the text.
    """
    if (boxed := last_boxed(text)) is not None:
        return tidied(boxed)
    if hashes := _HASHES.findall(text):
        return tidied(hashes[-1])
    if stated := _STATED.findall(text):
        return tidied(_lone_number(_SENTENCE_END.split(stated[-1], maxsplit=1)[0]))
    numbers = _LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{}` or `\fbox{}` that is closed; one cut off states nothing."""
    opened: list[int | None] = []
    found = None
    for part in _BOX_PARTS.finditer(text):
        if part["box"]:
            opened.append(part.end())
        elif part[0] == "{":
            opened.append(None)
        elif part[0] == "}" and opened and (start := opened.pop()) is not None:
            found = text[start : part.start()]
    return found


def tidied(answer: str) -> str | None:
    """`answer` without the space, Markdown emphasis, dollar signs and full stop around it; None if nothing is left."""
    # Wrappings nest a few deep in real text; the bound keeps a text of nothing else from taking long.
    for _ in range(8):
        answer = answer.strip().removesuffix(".").removeprefix(r"\(").removesuffix(r"\)")
        answer = answer.removeprefix(r"\$").strip("$*`")
    return answer.strip() or None


def as_ratio(answer: str) -> Fraction | None:
    r"""The exact value of a plain integer, decimal or fraction, such as `1,000`, `-0.5`, `1/2`, `\frac{1}{2}`."""
    match = _RATIO.fullmatch(answer.replace(" ", "") if "frac" in answer else answer)
    if match is None or len(answer) > 1000:
        return None
    if match["plain"]:
        value = Fraction(match["plain"].replace(",", ""))
    else:
        over = int(match["over"] or match["num"] or match["n"])
        under = int(match["under"] or match["den"] or match["d"])
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


def _lone_number(clause: str) -> str:
    numbers = _LAST_NUMBER.findall(clause)
    words = _LAST_NUMBER.sub(" ", clause)
    plain = re.fullmatch(r"[A-Za-z\s$,'*]*", words) is not None
    if len(numbers) == 1 and plain and not {word.lower() for word in re.findall(r"[A-Za-z]+", words)} & _MAGNITUDES:
        return numbers[0]
    return clause


def verify(problem: Problem, completion: str) -> Verdict:
    """Whether the final answer of `completion`, by the rules of `final_answer`, equals the gold answer.

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


MATH = Judge(name="math", verify=verify, read_answer=final_answer, same_answer=same_answer)
