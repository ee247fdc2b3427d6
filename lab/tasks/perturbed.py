"""Perturbed: copies of problems that are about as hard, but that no model can have read.

Where a rule can, numbers change and the answer is computed anew, exactly, by fractions: in questions that are one
arithmetic expression or one linear equation, and where a worked solution has the calculator annotations of GSM8K,
`<<16-3-4=9>>` (Cobbe et al. 2021, arXiv 2110.14168). Else sentences before the question that only say how things are
change places, and the answer stays. Other numbers in the same words are the idea of GSM-Symbolic (Mirzadeh et al. 2024,
arXiv 2410.05229); departure: its templates are written by hand, these rules are not, so they refuse wherever they could
be wrong.
"""

import ast
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from typing import Literal

import numpy as np

from lab.tasks.problem import Perturbed, Problem

N_DRAWS = 300
"""Numbers that are tried before a problem is given up."""


def perturbed(problem: Problem, generator: np.random.Generator) -> Perturbed | None:
    """A copy of a problem in words, with other numbers and another answer if a rule can, else in another order.

    None where no rule applies. The copy's id is new, its question never the original's.
    """
    asked, gold = problem.asked, problem.answer
    if problem.choices:
        return None
    found = asked_copy(asked, gold, generator) or worked_copy(asked, problem.solution or "", gold, generator)
    if found is not None:
        return _copy(problem, *found, "numbers")
    reordered = wording_copy(asked, generator)
    return None if reordered is None else _copy(problem, reordered, gold, "wording")


def _copy(problem: Problem, asked: str, answer: str, kind: Literal["numbers", "wording"]) -> Perturbed | None:
    prompt = problem.prompt.replace(problem.asked, asked, 1)
    question = None if problem.question is None else asked
    aliases = problem.aliases if kind == "wording" else ()
    changed = replace(problem, id=f"{problem.id}/{kind}", prompt=prompt, question=question, answer=answer)
    return Perturbed(replace(changed, aliases=aliases, solution=None, dated=None), kind)


_OPERATORS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip
_NOTATION = {
    r"\\left|\\right|\$": "",
    r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}": r"((\1)/(\2))",
    r"\\times|\\cdot|×|·": "*",
    r"\\div|÷": "/",
    r"−": "-",
    r"\^": "**",
    r"(?<=[0-9]),(?=[0-9]{3})": "",
    r"\{": "(",
    r"\}": ")",
    r"(?<=[0-9)])\s*(?=[a-z(])": "*",
    r"(?<![0-9.])0+(?=[0-9])": "",
}
LONGEST_EXPRESSION, LARGEST_POWER = 200, 12


def evaluated(expression: str, **names: Fraction) -> Fraction | None:
    """The exact value of an expression of numbers, `names`, + - * / and powers, also as LaTeX; None for other text.

    >>> evaluated("(16 - 3 - 4) * 2.5")
    Fraction(45, 2)
    """
    if len(expression) > LONGEST_EXPRESSION:
        return None
    for pattern, written in _NOTATION.items():
        expression = re.sub(pattern, written, expression)
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body, names)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None


def _value(node: ast.expr, names: Mapping[str, Fraction]) -> Fraction:
    """ValueError for what is no arithmetic."""
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(repr(number))
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, names)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, power = _value(left, names), _value(right, names)
            # Powers of powers would not end.
            if (
                power.denominator != 1
                or abs(power) > LARGEST_POWER
                or max(abs(base), base.denominator) > 10**LONGEST_EXPRESSION
            ):
                raise ValueError(f"{base} to the power {power}")
            return base ** int(power)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, names), _value(right, names))
        case ast.expr():
            raise ValueError(ast.dump(node))


_NUMBER = re.compile(r"(?<![\w.])(?:(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?![0-9])")


def _other(number: str, generator: np.random.Generator) -> str:
    """Half to twice as much, with as many decimals and noughts at the end, and its commas."""
    whole, point, decimals = number.replace(",", "").partition(".")
    digits = f"{int(whole + decimals)}"
    noughts = len(digits) - len(digits.rstrip("0") or digits)
    mantissa = int(digits[: len(digits) - noughts])
    drawn = f"{generator.integers(max(2, mantissa // 2), 2 * mantissa + 4)}{'0' * noughts}"
    if point:
        drawn = drawn.zfill(len(decimals) + 1)
        return f"{drawn[: -len(decimals)]}.{drawn[-len(decimals) :]}"
    return f"{int(drawn):,}" if "," in number else drawn


def _alike(new: Fraction | None, old: Fraction) -> bool:
    """Whole where `old` is, of few decimals where it is, and on its side of nought; but another number."""
    if new is None or new == old or (new > 0, new < 0) != (old > 0, old < 0):
        return False
    return all((new * scale).denominator == 1 for scale in (1, 10**6) if (old * scale).denominator == 1)


def _written(value: Fraction, like: str) -> str:
    """A number in the notation of another: with a point where that has one and six decimals are enough.

    >>> _written(Fraction(5, 4), "0.5"), _written(Fraction(5, 4), "1/2"), _written(Fraction(5), "0.5")
    ('1.25', '5/4', '5')
    """
    decimal = value.denominator != 1 and "." in like and (value * 10**6).denominator == 1
    return f"{float(value):.6f}".rstrip("0") if decimal else str(value)


_ASKS = re.compile(
    r"\b(?:a|an|answer|calculate|compute|determine|equals?|equation|evaluate|exact|expression|find|following|for|if|is|"
    r"of|please|result|satisfies|simplify|solution|solve|that|the|this|to|value|what|when|which|work|out)\b|"
    r"[\s.,:;?!'\"=$()]",
    re.IGNORECASE,
)
"""What may stand beside an expression or an equation without any other being asked."""
_TERM = r"(?:[0-9]+(?:\.[0-9]+)?|[-−+*/()×·$]|(?<![A-Za-z])[a-z](?![A-Za-z]))"
_EQUATION = re.compile(rf"(?:{_TERM}\s*+)++=\s*(?:{_TERM}\s*+)++")
_EXPRESSION = re.compile(r"[-−(\\0-9].*[-−+*/×÷·^\\(].*[0-9)}]", re.DOTALL)
_BASE = re.compile(r"(?<![\^.0-9])(?<!\^\{)(?<!\*\*)[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")
"""A number that is no power."""


def asked_copy(asked: str, gold: str, generator: np.random.Generator) -> tuple[str, str] | None:
    """(question, answer) of a question that is one expression, "What is 12 * 7 + 3?", or equation, "Solve 3x + 5 = 11".

    Powers stay. None unless its value or its unknown is the gold answer, and nothing else is asked.
    """
    equation = _EQUATION.search(asked)
    found = equation if equation and re.search("[a-z]", equation[0]) else _EXPRESSION.search(asked)
    if found is None:
        return None
    letters = {*re.findall(r"[a-z]", found[0])} if found is equation else set[str]()
    beside = asked[: found.start()] + " " + asked[found.end() :]
    value = evaluated(found[0]) if not letters else _solved(found[0], min(letters))
    plain = _ASKS.sub("", re.sub(rf"\b{min(letters)}\b", "", beside) if letters else beside)
    if value is None or value != evaluated(gold) or plain or len(letters) > 1:
        return None
    for _ in range(N_DRAWS):
        written = _BASE.sub(lambda number: _other(number[0], generator), found[0])
        new = evaluated(written) if not letters else _solved(written, min(letters))
        if new is not None and _alike(new, value):
            return asked[: found.start()] + written + asked[found.end() :], _written(new, gold)
    return None


def _solved(equation: str, unknown: str) -> Fraction | None:
    """The solution of a linear equation; None for others."""
    sides = [[evaluated(side, **{unknown: Fraction(at)}) for side in equation.split("=")] for at in (1, 2, 3, 5)]
    away = [one - other for one, other in sides if one is not None and other is not None]
    if len(away) < len(sides):
        return None
    slope = away[1] - away[0]
    is_line = away[2] - away[1] == slope and away[3] - away[2] == 2 * slope
    return 1 - away[0] / slope if slope and is_line else None


_STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_CHANGED = re.compile(rf"(?<![/:^-]){_NUMBER.pattern}(?![\w%/:^]|\.[0-9])")
"""A number of a question that may become another: no fraction, percentage, time, or part of a word."""
_FIXED = {Fraction(n) for n in (0, 1, 2, 3, 4, 5, 7, 10, 12, 24, 30, 31, 52, 60, 100, 365, 1000)} | {Fraction(1, 2)}
"""What a solution may bring along: twice, a dozen, days of a week, percent, and the like."""
_NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def worked_copy(asked: str, solution: str, gold: str, generator: np.random.Generator) -> tuple[str, str] | None:
    """(question, answer) where the worked solution says by `<<expression=result>>` how the numbers give the answer.

    Numbers change in the question and in the steps, and every step is computed anew. A number may change only if the
    question and all steps have it just once, so that it cannot stand for something else. All quantities keep their
    order, so that what the story says of more and less still holds. None where a step is untrue, the last is not the
    answer, or an operand may come from nowhere or from two places.
    """
    steps = [(found[1], evaluated(found[2])) for found in _STEP.finditer(solution)]
    results = [result for _, result in steps if result is not None]
    if not steps or [evaluated(step) for step, _ in steps] != results or results[-1] != evaluated(gold):
        return None
    stated = _numbers(asked)
    stated += [Fraction(_NAMES.index(word)) for word in re.findall(r"[a-z]+", asked.lower()) if word in _NAMES]
    derived = {value: {value / 100, 1 + value / 100, 1 - value / 100} for value in stated}
    known, used = _FIXED.union(stated, *derived.values()), Counter[Fraction]()
    for place, (step, _) in enumerate(steps):
        operands, before = _numbers(step), {*results[:place]}
        used.update(operands)
        if {*operands} - before - known or before.intersection(operands, stated):
            return None
    places = [
        found
        for found in _CHANGED.finditer(asked)
        if "." not in found[0] and stated.count(value := _fraction(found[0])) == used[value] == 1
        if value not in _FIXED and value not in results and not derived[value] & used.keys()
    ]
    for _ in range(N_DRAWS if places else 0):
        chosen = [place for place in places if generator.random() < 0.5] or places[:1]
        numbers = [_other(place[0], generator) for place in chosen]
        now = {_fraction(place[0]): _fraction(number) for place, number in zip(chosen, numbers, strict=True)}
        if _recompute(steps, now) and now[results[-1]] != results[-1]:
            kept = all(now[old] == old or _alike(now[old], old) for old in results)
            ordered = [now.get(old, old) for old in sorted({Fraction(0), *stated, *results})]
            if kept and all(less < more for less, more in pairwise(ordered)):
                for place, number in reversed([*zip(chosen, numbers, strict=True)]):
                    asked = asked[: place.start()] + number + asked[place.end() :]
                return asked, _written(now[results[-1]], gold)
    return None


def _fraction(number: str) -> Fraction:
    return Fraction(number.replace(",", ""))


def _numbers(text: str) -> list[Fraction]:
    return [_fraction(found[0]) for found in _NUMBER.finditer(text)]


def _recompute(steps: Sequence[tuple[str, Fraction | None]], now: dict[Fraction, Fraction]) -> bool:
    """Adds to `now`, which says what became of some numbers, every step's result; whether each became just one."""
    for step, old in steps:
        new = evaluated(_NUMBER.sub(partial(_becomes, now), step))
        if new is None or old is None or now.setdefault(old, new) != new:
            return False
    return True


def _becomes(now: Mapping[Fraction, Fraction], found: re.Match[str]) -> str:
    value = _fraction(found[0])
    return f"({now.get(value, value)})"


_LEANS = re.compile(
    r"\W*(?:s?he|it|they|his|hers?|its|theirs?|him|them|th(?:is|e|ese|at|ose|en|ere|us|erefore)|both|each|another|other|"
    r"one|after\w*|later|next|before|finally|also|however|but|so|and|or|if|because|since|in|at|on|when|while|remaining|"
    r"rest|here|now|similarly|hence|where|which|such|let|suppose|for example|for instance|your|note)\b",
    re.IGNORECASE,
)
"""A beginning of a sentence that may lean on the one before it."""
_STATES = re.compile(
    r"\b(?:has|have|had|is|are|was|were|costs?|weighs?|measures?|contains?|holds?|owns?|lives?|equals?)\b|=",
)
"""What a sentence has that says how things are; others say what happens, which has an order."""
_REFERS = re.compile(
    r"%|\b(?:\w*doubl\w*|tripl\w*|quadrupl\w*|hal[fv]\w*|twice|thrice|times|thirds?|quarters?|\w+ths?|percent|left|each|"
    r"every|same|rest|remain\w*|then|more|most|fewer|less|least|than|others?|another|also|again|first|second|last|next|"
    r"later|earlier|previous\w*|now|still|total|result|as (?:many|much)|such|so|too|both|either|neither|former|latter|"
    r"been|having|gone|all|add\w*|subtract\w*|multipl\w*|divid\w*)\b",
    re.IGNORECASE,
)
_PRONOUNS = re.compile(
    r"\b(?:s?he|it|they|his|hers?|its|theirs?|him|them|these|those|this|that|there|one|ones)\b|(?:^|\. )The ",
    re.IGNORECASE,
)
"""What may name something of an earlier sentence."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z$\\\"“(])")
_SHORT = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e|cf|No|Fig|[A-Z])\.$")
_ASKED = re.compile(
    r"\?|^(?:Find|Compute|Determine|Evaluate|Simplify|Express|Calculate|Solve|What|How|Prove|Show|Give)\b"
)
_OPTION = re.compile(r"^\s*\(?[A-E][.):]\s", re.MULTILINE)


def wording_copy(asked: str, generator: np.random.Generator) -> str | None:
    """The question with the sentences before what it asks in another order; None where they may not change places.

    A sentence that begins with a word that leans on another, such as "She", stays behind the one before it. None where
    any tells what happens, or may count from another, such as "Half are red": the answer could become another one.
    """
    sentences = [*_sentences(asked)]
    asks = next((index for index, sentence in enumerate(sentences) if _ASKED.search(sentence)), len(sentences) - 1)
    blocks: list[str] = []
    for sentence in sentences[:asks]:
        if blocks and _LEANS.match(sentence):
            blocks[-1] += f" {sentence}"
        else:
            blocks.append(sentence)
    told = sentences[:asks]
    if (
        _OPTION.search(asked)
        or len({*blocks}) < 2
        or any(map(_REFERS.search, told))
        or not all(map(_STATES.search, told))
    ):
        return None
    # Before the first there is nothing that it could mean.
    if any(map(_PRONOUNS.search, blocks[1:])):
        return None
    order = blocks
    while order == blocks:
        order = [blocks[index] for index in generator.permutation(len(blocks))]
    return " ".join([*order, *sentences[asks:]])


def _sentences(text: str) -> Iterator[str]:
    """Its sentences, none of them cut inside a formula."""
    held = ""
    for part in _SENTENCE.split(text.strip()):
        held = f"{held} {part}".strip()
        is_cut = any(held.count(start) > held.count(end) for start, end in ((r"\[", r"\]"), (r"\begin", r"\end")))
        if not is_cut and held.replace(r"\$", "").count("$") % 2 == 0 and _SHORT.search(held) is None:
            yield held
            held = ""
    if held:
        yield held
