r"""QuestionRows: the problems that rows of any benchmark are, wherever they come from.

Columns are found by rule: the question in the first of `QUESTIONS` that a row gives, the answer in the first of
`ANSWERS`. A dot leads into an object, all objects of a list, or JSON. Of a chat the last turn of the user is the
question. An answer is what follows `####`, what stands in boxes, or the text itself; numbers, lists and objects count
as what they hold. Of choices, which are asked with the question, it is the letter. Optional: `id` or `unique_id`;
`level`, `subject` or `type`, of which the first one there names the family, a number among levels as `Level 4`; a
worked solution in the first of `SOLUTIONS`, or where an answer says more than its end; when it was published in the
first of `DATES`.

Several golds are either parts of one answer or ways to write it. Parts, which are all wanted, are numbers in a list,
what an object of other names than `value` and `aliases` holds, and whatever a row that says `is_multiple_answer` holds;
any one is right of a list of texts, and of a column of `ALIASES`.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import takewhile
from math import isfinite
from string import ascii_uppercase

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.problem import Problem, is_held_out
from lab.tasks.program import tests_of
from lab.tasks.row_file import Row
from lab.tasks.stated_answer import LONGEST, last_boxes, tidied

SUFFIX = "\n\nThink step by step, and put the final answer in \\boxed{}.\n"
CHOICE_SUFFIX = "\n\nThink step by step, and put the letter of the right choice in \\boxed{}.\n"
"""What prompts have after the question, unless another is given."""
QUESTIONS = ("problem", "question.stem", "question", "extra_info.question", "prompt", "messages", "conversations",
    "instruction", "query", "input", "text")  # fmt: skip
ANSWERS = ("final_answer", "expected_answer", "reward_model.ground_truth", "ground_truth", "ground_truth_answer",
    "answer", "gold", "gold_answer", "correct_answer", "reference_answer", "answer_key", "answerkey", "target",
    "answer_number", "extra_info.answer", "correct", "solution")  # fmt: skip
WORKED = {"solution"}
"""Columns of `ANSWERS` that hold an answer among other text, unless a user names them."""
ALIASES = ("aliases", "answer_aliases", "alternatives", "acceptable_answers", "possible_answers", "answers")
"""Columns of further answers, each of them right; of `answers` there may be nothing else."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How rows of files and of data sets are read and asked, where rules are not to decide.

    >>> el.Reading(question_column=("riddle",), suffix="").skip_bad_rows
    False
    """

    question_column: tuple[str, ...] = ()
    """Where the question is, such as extra_info.question; of several, the first that a row gives; found by rule if none
    is named."""
    answer_column: tuple[str, ...] = ()
    """Where the answer is, likewise."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, and count them, instead of refusing the whole."""
    suffix: str | None = None
    """Behind every question; if not given, a line that asks for steps and a box, of choices for the letter in it, and
    for programs nothing."""
    run_code: bool = False
    """Run programs that models write, to judge them, where a task asks for programs (HumanEval, MBPP)."""

    def over(self, other: "Reading") -> "Reading":
        """What this one says, and where it says nothing what `other` does."""
        return Reading(
            question_column=self.question_column or other.question_column,
            answer_column=self.answer_column or other.answer_column,
            skip_bad_rows=self.skip_bad_rows or other.skip_bad_rows,
            suffix=other.suffix if self.suffix is None else self.suffix,
            run_code=self.run_code or other.run_code,
        )


BY_RULE = Reading()
SOLUTIONS = ("solution", "cot", "rationale")
DATES = ("date", "release_date", "contest_date", "year", "extra_info.date", "extra_info.year")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRows:
    """Where rows come from, which every fault names, and how they are read and asked."""

    source: str
    """As a user would type it."""
    stem: str
    """What the ids of problems begin with, and the family of rows that name none."""
    reading: Reading = BY_RULE

    def problems(self, rows: Iterable[Row]) -> "Found":
        """Every row as a problem, in the order given; of rows that repeat a question and its answer, the first.

        Raises TaskError, with the source and the row, for a row without question or final answer; where bad rows are
        skipped, only if no row is left.
        """
        problems: dict[tuple[str, str], Problem] = {}
        questions: list[str] = []
        ids: set[str] = set()
        columns: Counter[tuple[str, str]] = Counter()
        skipped: list[str] = []
        rows = [*rows]
        numbered = _numbered([row for _, row in rows], self.reading.answer_column or ANSWERS)
        for number, row in rows:
            try:
                problem, question, named = self._problem(number, row, numbered=numbered)
                told = (problem.id, problem.prompt, problem.answer, problem.family, problem.solution or "")
                if half := re.search(r".{0,20}[\ud800-\udfff]", "\n".join((*told, *problem.aliases, *problem.choices))):
                    raise self._broken(number, f"holds half a character, the last of {half[0]!r}: want whole ones")
            except TaskError as fault:
                if not self.reading.skip_bad_rows:
                    raise
                skipped.append(str(fault))
                continue
            columns[named] += 1
            if (key := (problem.prompt, problem.answer)) not in problems:
                # Ids that begin again, and one question with two answers, are told apart by what they are.
                named_so = (problem.id, f"{problem.id}:{_digest(problem.prompt)}", f"{problem.id}:{_digest(str(key))}")
                problems[key] = replace(problem, id=next(name for name in named_so if name not in ids))
                ids.add(problems[key].id)
                questions.append(question)
        if not problems:
            why = f" that can be read, the first: {skipped[0]}" if skipped else ""
            raise TaskError(f"{self.source} is empty: want rows{why}")
        n_repeats = columns.total() - len(problems)
        return Found(self.source, tuple(problems.values()), tuple(questions), columns, n_repeats, tuple(skipped))

    def _broken(self, number: int, fault: str) -> TaskError:
        return TaskError(f"{self.source}, row {number} {fault}")

    def _there(self, number: int, row: Mapping[str, object], of: str, columns: Sequence[str]) -> list[str]:
        """Those of `columns` in which the row has something."""
        if there := [name for name in columns if value_at(row, name) not in (None, "", [])]:
            return there
        has = ", ".join(map(repr, row)) or "no column"
        raise self._broken(number, f"has {has}, and no {of} in any of {', '.join(columns)}: name its column")

    def _problem(
        self, number: int, row: Mapping[str, object] | TaskError, *, numbered: bool
    ) -> tuple[Problem, str, tuple[str, str]]:
        """The problem, its question, and the columns of its question and answer."""
        if isinstance(row, TaskError):
            raise row
        asked = self._there(number, row, "question", self.reading.question_column or QUESTIONS)
        question = said_last(value_at(row, asked[0]))
        if question is None or not question.strip():
            raise self._broken(number, f"has no text in {asked[0]!r}: want a question, or a chat with a user's turn")
        if (tests := tests_of(row, question)) is not None:
            suffix = self.reading.suffix or ""
            return self._made(row, tests.asked, suffix, (tests.gold,), ()), tests.asked, (asked[0], tests.column)
        golds = self._there(number, row, "answer", self.reading.answer_column or (*ANSWERS, *ALIASES))
        choices = _choices(row)
        named = bool(self.reading.answer_column)
        find = partial(_letters, choices=choices, numbered=numbered) if choices else partial(golds_of, named=named)
        column, right = next(((name, found) for name in golds if (found := find(row, name))), (golds[0], ()))
        if not right and choices:
            gave = f"{value_at(row, column)!r:.80}"
            fault = f"has {gave} in {column!r}, which is no letter, number or text of its choices"
            raise self._broken(number, f"{fault}: name the answer's column")
        if not right:
            raise self._broken(number, rf"has no final answer in {', '.join(golds)}: want '#### 42' or \boxed{{42}}")
        if not named and not choices:
            right = tuple(dict.fromkeys([*right, *(one for name in ALIASES for one in golds_of(row, name))]))
        before = [value_at(row, key) for key in ("context", "passage", "body")]
        question = "\n".join([*(said for said in before if isinstance(said, str) and said.strip()), question])
        if choices:
            question += "\n" + "".join(f"\n{ascii_uppercase[n]}. {choice}" for n, choice in enumerate(choices))
        suffix = self.reading.suffix if self.reading.suffix is not None else CHOICE_SUFFIX if choices else SUFFIX
        return self._made(row, question, suffix, right, choices), question, (asked[0], column)

    def _made(
        self, row: Mapping[str, object], question: str, suffix: str, golds: Sequence[str], choices: Sequence[str]
    ) -> Problem:
        family = next((row[key] for key in ("level", "subject", "type") if row.get(key) is not None), self.stem)
        given = next((row[key] for key in ("id", "unique_id", "task_id") if row.get(key) is not None), None)
        said = [value_at(row, name) for name in (*SOLUTIONS, *ANSWERS)]
        return Problem(
            # A row without an id is named by its question, so that adding rows renames none.
            id=f"{self.stem}:{_digest(question) if given is None else given}",
            prompt=question + suffix,
            answer=golds[0],
            family=f"Level {family}" if isinstance(family, int) else str(family),
            source=self.source,
            aliases=tuple(golds[1:]),
            choices=tuple(choices),
            question=question,
            solution=next((one for one in said if isinstance(one, str) and len(one) > len(golds[0]) + 4), None),
            dated=next((day for name in DATES if (day := _day(value_at(row, name))) is not None), None),
        )


@dataclass(frozen=True, slots=True)
class Found:
    """What rows are, and how they were read."""

    source: str
    """As a user would type it."""
    problems: tuple[Problem, ...]
    questions: tuple[str, ...]
    """What each of them asks, without what every prompt has after it."""
    columns: Mapping[tuple[str, str], int]
    """(question, answer) -> how many rows were read from these columns."""
    n_repeats: int
    """Rows that repeat another one's question and answer."""
    skipped: tuple[str, ...]
    """What is wrong with each row that was left out."""
    n_barred: int = 0
    """Problems that another task asks too, and that were left out for it."""

    @property
    def described(self) -> str:
        """One line: how many problems, from which columns, and what was merged or left out."""
        read = "; ".join(
            f"question from `{question}`, answer from `{answer}`" + (f" ({n} rows)" if len(self.columns) > 1 else "")
            for (question, answer), n in self.columns.items()
        )
        merged = f"; {self.n_repeats} repeated rows merged" if self.n_repeats else ""
        left_out = f"; {len(self.skipped)} bad rows left out" if self.skipped else ""
        barred = f"; {self.n_barred} left out that the other task asks too" if self.n_barred else ""
        return f"{len(self.problems)} problems: {read}{merged}{left_out}{barred}"

    def side(self, held_out: bool | None) -> tuple[Problem, ...]:
        """Those of one side of the split, by their ids; all of them for None."""
        asked = zip(self.problems, self.questions, strict=True)
        mine = (problem for problem, question in asked if held_out is None or is_held_out(question) == held_out)
        return tuple(sorted(mine, key=lambda problem: problem.id))

    def without(self, questions: Iterable[str]) -> "Found":
        """Those that ask none of `questions`; TaskError where none is left.

        White space, capitals, marks and choices apart, and with or without the last sentences that all rows share.
        """
        asked = {form for forms in _plain([*questions]) for form in forms}
        pairs = zip(self.problems, self.questions, _plain(self.questions), strict=True)
        kept = [(problem, question) for problem, question, forms in pairs if asked.isdisjoint(forms)]
        if not kept:
            raise TaskError(f"{self.source}: the other task asks all its {len(self.problems)} questions: want others")
        problems, left = zip(*kept, strict=True)
        return replace(self, problems=problems, questions=left, n_barred=len(self.problems) - len(problems))

    def chosen(self, n_problems: int, generator: np.random.Generator, *, held_out: bool | None) -> tuple[Problem, ...]:
        """`n_problems` of one side, in an order drawn from `generator`; TaskError if there are fewer."""
        side = self.side(held_out)
        if n_problems > len(side):
            kind = "" if held_out is None else "held-out " if held_out else "training "
            cure = "want fewer, or more rows" if held_out is None else "want fewer, more rows, or another --fit-task"
            raise TaskError(f"{self.source}: asked for {n_problems} {kind}problems, it has {len(side)}: {cure}")
        return tuple(side[index] for index in generator.permutation(len(side))[:n_problems])


_MARKS = re.compile(r"(?<![0-9])[.,]|[.,](?![0-9])|\\[()\[\]]|[\s?!;:'\"`$]+")


def _plain(questions: Sequence[str]) -> list[set[str]]:
    """Of each question what tells it from others, as it is and without the last sentences that all of them share."""
    # The same question with other choices is the same.
    parts = [re.split(r"\n+|(?<=[.?!])\s+", one.partition("\n\nA. ")[0].strip()) for one in questions]
    n_shared = 0
    while len({*questions}) > 1 and all(len(of) > n_shared + 1 for of in parts):
        if len({of[-1 - n_shared] for of in parts}) > 1:
            break
        n_shared += 1
    forms = [(of, of[: len(of) - n_shared]) for of in parts]
    return [{" ".join(_MARKS.sub(" ", " ".join(form)).split()).casefold() for form in pair} for pair in forms]


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def value_at(row: object, name: str) -> object:
    """The value of a column, a dot leading into an object, all objects of a list, or JSON; None where there is none."""
    value: object = row
    for key in name.split("."):
        if isinstance(value, str):
            value = _parsed(value)
        if isinstance(value, list) and value and all(isinstance(one, Mapping) for one in value):
            value = [one.get(key) for one in value]
            continue
        if not isinstance(value, Mapping):
            return None
        # Names are the same in every row.
        named = key if key in value else _plain_names(tuple(value)).get(key.lower(), key)
        value = value.get(named)
    return value


def _parsed(text: str) -> object:
    try:
        return json.loads(text) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _day(value: object) -> str | None:
    """A year, a month or a day as `Problem.dated` has it; of a time, its day. None for anything else."""
    text = str(value).removesuffix(".0").replace("/", "-")
    found = re.match(r"[12][0-9]{3}(?:-[0-9]{2}){0,2}(?![0-9.-])", text)
    return found and found[0]


@lru_cache(maxsize=256)
def _plain_names(names: tuple[str, ...]) -> dict[str, str]:
    return {name.lower().replace(" ", "_"): name for name in names}


def _choices(row: Mapping[str, object]) -> list[str]:
    """What is to choose from; of a right choice and wrong ones, in an order that tells nothing."""
    wrong = [str(found) for n in range(1, 10) if (found := value_at(row, f"incorrect_answer_{n}")) is not None]
    mixed: Sequence[object] = sorted([*wrong, str(value_at(row, "correct_answer"))], key=_digest) if wrong else []
    for key in () if wrong else ("options", "choices.text", "question.choices.text", "choices", ""):
        # As a list, from letter to text, or in columns that are called A, B and so on.
        found = value_at(row, key) if key else row
        lettered = takewhile(lambda one: one is not None, (value_at(found, letter) for letter in ascii_uppercase))
        if mixed := found if isinstance(found, list) else [*lettered]:
            break
    texts = [tidied(str(one)) or "" for one in mixed]
    return texts if 1 < len(texts) <= len(ascii_uppercase) else []


def _labels(row: Mapping[str, object]) -> list[object]:
    found = (value_at(row, name) for name in ("choices.label", "question.choices.label"))
    return next((labels for labels in found if isinstance(labels, list)), [])


def _numbered(rows: Iterable[Mapping[str, object] | TaskError], columns: Sequence[str]) -> bool:
    """Whether texts are numbers of choices from 0: all of them may be, and one is no choice by what it says."""
    told = [
        (next((said for name in columns if (said := value_at(row, name)) not in (None, "", [])), None), choices)
        for row in rows
        if not isinstance(row, TaskError) and not _labels(row) and (choices := _choices(row))
    ]
    numbers = [str(n) for n in range(len(ascii_uppercase))]
    return all(said in numbers[: len(choices)] for said, choices in told) and any(one not in of for one, of in told)


def _letters(row: Mapping[str, object], column: str, choices: Sequence[str], *, numbered: bool) -> tuple[str, ...]:
    """The letter of the right choice, which is told by its number from 0, its label, its text or its letter."""
    at = value_at(row, column)
    told = [tidied(at) or "", *golds_of(row, column)] if isinstance(at, str) else []
    if numbered and isinstance(at, str) and at.isdecimal():
        return (ascii_uppercase[int(at)],)
    places = [at] if isinstance(at, int) or (isinstance(at, float) and at.is_integer()) else []
    for names in (_labels(row), choices):
        places += [names.index(one) for one in told if one in names]
    places += [ascii_uppercase.find(one.strip("().").upper() or "none") for one in told]
    return tuple(ascii_uppercase[int(place)] for place in places if 0 <= place < len(choices))[:1]


def said_last(value: object, roles: Sequence[str] = ("user", "human")) -> str | None:
    """A text as it is; of a chat, what the user, or another of `roles`, says last."""
    if isinstance(value, str):
        return value
    turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
    said = [
        next(
            (text for key in ("content", "value", "text") if (text := said_last(turn.get(key), roles)) is not None),
            None,
        )
        for turn in turns
        if turn.get("role", turn.get("from", roles[0])) in roles
    ]
    return said[-1] if said else None


def golds_of(row: Mapping[str, object], column: str, *, named: bool = False) -> tuple[str, ...]:
    """The answers that a column gives, each of them right; one where all it holds belongs together; else none."""
    value, worked = value_at(row, column), column in WORKED and not named
    if isinstance(value, dict) and {*map(str.lower, value)} & {"value", "aliases", "target", "text"}:
        # Of TriviaQA, of search tasks and of SQuAD: one answer in several words.
        ways = [value_at(value, name) for name in ("value", "target", "text", "aliases")]
        value = [one for part in ways for one in (part if isinstance(part, list) else [part]) if one is not None]
    together = value_at(row, "is_multiple_answer") is True
    if isinstance(value, list) and not together and value and all(isinstance(one, str) for one in value):
        found = [_gold(one, worked=worked) for one in value]
        return tuple(dict.fromkeys(one for one in found if one)) if column in ALIASES or all(found) else ()
    gold = _gold(value, worked=worked)
    return () if gold is None else (gold,)


def _gold(value: object, *, worked: bool) -> str | None:
    """The final answer in a value; of a `worked` text only what `####` or a box marks. None where there is none."""
    if isinstance(value, str):
        if "####" in value:
            return tidied(value.rpartition("####")[2])
        plain = None if worked or len(value) > LONGEST else tidied(value)
        return tidied(", ".join(last_boxes(value))) or plain
    if isinstance(value, list | dict):
        parts = [_gold(one, worked=worked) for one in (value.values() if isinstance(value, dict) else value)]
        return ", ".join(dict.fromkeys(part for part in parts if part)) if parts and all(parts) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, float) or not isfinite(value):
        return None
    return str(int(value)) if value.is_integer() else str(value)
