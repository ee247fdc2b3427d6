"""Verifiers of answers that are no mathematics: the letter of a choice, and a text of its own."""

import operator
import re
import unicodedata

from lab.tasks.math_answer import difference
from lab.tasks.perturbed import perturbed
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.stated_answer import Stated, before_run_on, behind_thought, stated_answer, tidied

_LETTER = re.compile(
    r"(?i)(?:the\s+)?(?:correct\s+)?(?:answer|option|choice)?\s*(?:is\s+)?"
    r"(?:\(([A-Z])\)|\b([A-Z])(?:[.):]|\s*$|\s+[-–—]\s|,?\s+(?:because|since|which|not)\b))"
)
_NAMED = re.compile(
    r"(?<!\bnot )(?<!\) and )(?<!\) or )(?:\(([A-Z])\)|\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+([A-Z])\b"
    r"|\b(?:be|is|[Hh]ence|[Tt]hus|[Tt]herefore|[Ss]o),?\s+([A-Z])(?=\W*$)|\b([A-Z])(?=\s+is\s+(?:the\s+)?(?:correct|right|best)\b)"
    r'|"answer"\s*:\s*"([A-Z])")'
    r"(?!\s+is\s+(?:not|wrong|incorrect|false)\b)(?!\s+(?:and|or)\s+\([A-Z]\))"
)
_WORDED = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_MARKED = ("box", "hashes", "stated")
"""How an answer was read where the completion says that it is one."""


def letter_of(text: str) -> str | None:
    """The letter of a stated choice: `B`, `(B)`, `B. Paris`, `Option B`; None for anything else."""
    plain = _WORDED.sub(r"\1", text).strip().strip("*$ []")
    found = _LETTER.match(plain)
    return (found[1] or found[2]).upper() if found else None


def stated_text(completion: str) -> Stated | None:
    """The answer behind a box, `####` or "answer is"; else the last line, whole ("line"); None where there is none."""
    found = stated_answer(completion)
    if found is not None and found.read_by in _MARKED:
        return found
    part = before_run_on(behind_thought(completion) or "")
    line = tidied(next((line for line in reversed(part.splitlines()) if line.strip()), ""))
    return None if line is None else Stated(line, "line")


def stated_choice(completion: str) -> Stated | None:
    """The answer that a completion states, as a letter where it is one.

    On its last line that is the last one named there; where that names none, a first line that is a letter counts.
    """
    found = stated_text(completion)
    if found is None:
        return None
    letter = letter_of(found.answer)
    if letter or found.read_by != "line":
        return found._replace(answer=letter or found.answer)
    first = re.match(r"\W*([A-Z])\W*\n", behind_thought(completion) or "")
    named = ["".join(letters) for letters in _NAMED.findall(found.answer)] or ([first[1]] if first else [])
    return found._replace(answer=named[-1] if named else found.answer)


def verify_choice(problem: Problem, completion: str) -> Verdict:
    """Whether a completion chooses the right letter, by the letter or by what that choice and no other says."""
    found = stated_choice(completion)
    if found is None:
        return Verdict(answer_correct=False, process_valid=None, reason="no final answer", read_by=None)
    answer = found.answer
    letters = [chr(ord("A") + n) for n, text in enumerate(problem.choices) if plain_text(text) == plain_text(answer)]
    if len(letters) == 1 and len(answer) > 1:
        answer = letters[0]
    fault = None if answer == problem.answer else "another choice"
    if len(answer) > 1 and problem.choices:
        # A formula, perhaps, in another form than that of the choice.
        fault = difference(problem.choices[ord(problem.answer) - ord("A")], answer) and "no choice"
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok", read_by=found.read_by)


def verify_text(problem: Problem, completion: str) -> Verdict:
    """Whether the stated text is that of a gold answer, letter by letter once both are plain."""
    found = stated_text(completion)
    golds = {plain_text(gold) for gold in (problem.answer, *problem.aliases)}
    fault = "no final answer" if found is None else None if plain_text(found.answer) in golds else "another text"
    read_by = None if found is None else found.read_by
    return Verdict(answer_correct=fault is None, process_valid=None, reason=fault or "ok", read_by=read_by)


def plain_text(text: str) -> str:
    """In small letters, in one form of Unicode, without marks at its ends, and with single spaces."""
    plain = unicodedata.normalize("NFKC", _WORDED.sub(r"\1", text)).casefold()
    return " ".join(plain.split()).strip("\"'`*$.,;:!?()[] ")


def read_choice(completion: str) -> str | None:
    """The letter, or what else is stated."""
    found = stated_choice(completion)
    return None if found is None else found.answer


def read_text(completion: str) -> str | None:
    """What is stated."""
    found = stated_text(completion)
    return None if found is None else found.answer


def same_text(one: str, other: str) -> bool:
    """Whether two texts are one once they are plain."""
    return plain_text(one) == plain_text(other)


CHOICE = Judge(name="choice", verify=verify_choice, read_answer=read_choice, same_answer=operator.eq)
TEXT = Judge(name="text", verify=verify_text, read_answer=read_text, same_answer=same_text, perturb=perturbed)
