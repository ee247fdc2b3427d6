"""Verifiers of answers that are no mathematics: the letter of a choice, and a text of its own."""

import re
import unicodedata

from lab.tasks.math_answer import difference
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.stated_answer import behind_thought, stated_answer, tidied

_LETTER = re.compile(
    r"(?i)(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)?\s*(?:is\s+)?"
    r"(?:\(([A-Z])\)|\b([A-Z])(?:[.):]|\s*$|\s+[-–—]\s|,?\s+(?:because|since|which)\b))"
)
_NAMED = re.compile(r"\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+([A-Z])\b")
_WORDED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_MARKED = ("box", "hashes", "stated")
"""How an answer was read where the completion says that it is one."""


def letter_of(text: str) -> str | None:
    """The letter of a stated choice: `B`, `(B)`, `B. Paris`, `Option B`; None for anything else."""
    plain = _WORDED.sub(r"\1", text).strip().strip("*$ ")
    found = _LETTER.match(plain)
    return (found[1] or found[2]).upper() if found else None


def chosen(completion: str) -> str | None:
    """The answer that a completion states, as a letter where it is one."""
    found = stated_answer(completion)
    if found is not None and found.read_by in _MARKED:
        return letter_of(found.answer) or tidied(found.answer)
    # Unmarked, it stands on the last line, and not in the last number or formula.
    line = last_line(completion)
    named = [one or other for one, other in _NAMED.findall(line)]
    return letter_of(line) or (named[-1].upper() if named else tidied(line))


def verify_choice(problem: Problem, completion: str) -> Verdict:
    """Whether a completion chooses the right letter, by the letter or by the text of that choice and of no other."""
    answer = chosen(completion)
    if answer is None:
        return Verdict(answer_correct=False, process_valid=None, reason="no final answer")
    letters = [chr(ord("A") + n) for n, text in enumerate(problem.choices) if plain_text(text) == plain_text(answer)]
    letter = letters[0] if len(letters) == 1 and len(answer) > 1 else answer
    if len(letter) > 1:
        # A formula, perhaps in another form than that of the choices.
        right = problem.choices[ord(problem.answer) - ord("A")] if problem.choices else problem.answer
        same = difference(right, letter) is None
        return Verdict(answer_correct=same, process_valid=None, reason="ok" if same else "no choice")
    same = letter == problem.answer
    return Verdict(answer_correct=same, process_valid=None, reason="ok" if same else "another choice")


def stated_text(completion: str) -> str | None:
    """The answer behind a box, `####` or "answer is"; else the last line, whole."""
    found = stated_answer(completion)
    if found is not None and found.read_by in _MARKED:
        return found.answer
    return tidied(last_line(completion))


def verify_text(problem: Problem, completion: str) -> Verdict:
    """Whether the stated text is that of a gold answer, letter by letter once both are plain."""
    answer = stated_text(completion)
    golds = {plain_text(gold) for gold in (problem.answer, *problem.aliases)}
    fault = "no final answer" if answer is None else None if plain_text(answer) in golds else "another text"
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok")


def last_line(completion: str) -> str:
    """The last line that is not empty, behind any thinking."""
    lines = [line for line in (behind_thought(completion) or "").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def plain_text(text: str) -> str:
    """In small letters, in one form of Unicode, without marks at its ends, and with single spaces."""
    plain = unicodedata.normalize("NFKC", _WORDED.sub(r"\1", text)).casefold()
    return " ".join(plain.split()).strip("\"'`*$.,;:!?()[] ")


CHOICE = Judge(name="choice", verify=verify_choice, read_answer=chosen, same_answer=lambda one, other: one == other)
TEXT = Judge(
    name="text",
    verify=verify_text,
    read_answer=stated_text,
    same_answer=lambda one, other: plain_text(one) == plain_text(other),
)
