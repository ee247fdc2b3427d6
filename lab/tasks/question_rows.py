r"""QuestionRows: the problems that rows of any benchmark are, wherever they come from.

Columns are found by rule: the question in the first of `QUESTIONS` that a row gives, the answer in the first of
`ANSWERS`. A dot leads into an object. Of a chat the last turn of the user is the question. An answer is what follows
`####`, what stands in boxes, or the text itself; numbers, lists and objects count as what they hold. Of choices, which
are asked with the question, it is the letter. Optional: `id` or `unique_id`; `level`, `subject` or `type`, of which
the first one there names the family, a number among levels as `Level 4`; a worked solution in the first of
`SOLUTIONS`, or where an answer says more than its end; when it was published in the first of `DATES`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, cast

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem, is_held_out
from lab.tasks.row_file import Row, rows_of_file
from lab.tasks.stated_answer import LONGEST, last_boxes, tidied

SUFFIX = "\n\nThink step by step, and put the final answer in \\boxed{}.\n"
"""What every prompt has after the question, unless another is given."""
QUESTIONS = ("problem", "question", "extra_info.question", "prompt", "messages", "conversations", "instruction",
    "query", "input")  # fmt: skip
ANSWERS = ("final_answer", "expected_answer", "reward_model.ground_truth", "ground_truth", "ground_truth_answer",
    "answer", "gold", "gold_answer", "correct_answer", "reference_answer", "answer_key", "answerkey", "target",
    "answer_number", "extra_info.answer", "correct", "solution")  # fmt: skip
WORKED = {"solution"}
"""Columns of `ANSWERS` that hold an answer among other text."""
SOLUTIONS = ("solution", "cot", "rationale")
DATES = ("date", "release_date", "contest_date", "year", "extra_info.date", "extra_info.year")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRows:
    """Where rows come from, which every fault names, and how they are read and asked."""

    source: str
    """As a user would type it."""
    stem: str
    """What the ids of problems begin with, and the family of rows that name none."""
    suffix: str = SUFFIX
    """What every prompt has after the question."""
    question: str | None = None
    """Column of the question; found by rule where None."""
    answer: str | None = None
    """Column of the answer; found by rule where None."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, instead of refusing the whole."""

    def problems(self, rows: Iterable[Row]) -> "Found":
        """Every row as a problem, in the order given; of rows that repeat a question and its answer, the first.

        Raises TaskError, with the source and the row, for a row without question or final answer; where bad rows are
        skipped, only if no row is left.
        """
        problems: dict[tuple[str, str], Problem] = {}
        ids: set[str] = set()
        columns: Counter[tuple[str, str]] = Counter()
        skipped: list[str] = []
        for number, row in rows:
            try:
                problem, named = self._problem(number, row)
            except TaskError as fault:
                if not self.skip_bad_rows:
                    raise
                skipped.append(str(fault))
                continue
            columns[named] += 1
            if (key := (problem.prompt, problem.answer)) not in problems:
                # Ids that begin again, and one question with two answers, are told apart by what they are.
                named_so = (problem.id, f"{problem.id}:{_digest(problem.prompt)}", f"{problem.id}:{_digest(str(key))}")
                problems[key] = replace(problem, id=next(name for name in named_so if name not in ids))
                ids.add(problems[key].id)
        if not problems:
            why = f" that can be read, the first: {skipped[0]}" if skipped else ""
            raise TaskError(f"{self.source} is empty: want rows{why}")
        return Found(tuple(problems.values()), columns, columns.total() - len(problems), tuple(skipped))

    def chosen(
        self, problems: Iterable[Problem], n_problems: int, generator: np.random.Generator, *, held_out: bool
    ) -> tuple[Problem, ...]:
        """`n_problems` of one side of the split, in an order drawn from `generator`; TaskError if there are fewer."""
        side = sorted((problem for problem in problems if self._on_side(problem, held_out)), key=lambda row: row.id)
        if n_problems > len(side):
            kind = "held-out" if held_out else "training"
            raise TaskError(
                f"{self.source}: asked for {n_problems} {kind} problems, it has {len(side)}: want fewer, or more rows"
            )
        return tuple(side[index] for index in generator.permutation(len(side))[:n_problems])

    def _broken(self, number: int, fault: str) -> TaskError:
        return TaskError(f"{self.source}, row {number} {fault}")

    def _problem(self, number: int, row: Mapping[str, object]) -> tuple[Problem, tuple[str, str]]:
        """The problem, and the columns of its question and answer."""
        asked = [name for name in self._named(self.question, QUESTIONS) if _at(row, name) not in (None, "", [])]
        golds = [name for name in self._named(self.answer, ANSWERS) if _at(row, name) not in (None, "", [])]
        if not asked or not golds:
            lacks = "question" if not asked else "answer"
            columns = ", ".join(map(repr, row)) or "no column"
            rule = ", ".join(QUESTIONS if not asked else ANSWERS)
            raise self._broken(number, f"has {columns}, and no {lacks} in any of {rule}: name its column")
        question = _question(_at(row, asked[0]))
        if question is None or not question.strip():
            raise self._broken(number, f"has no text in {asked[0]!r}: want a question, or a chat with a user's turn")
        gold = next((found for name in golds if (found := _gold(_at(row, name), worked=name in WORKED))), None)
        if gold is None:
            raise self._broken(number, rf"has no final answer in {', '.join(golds)}: want '#### 42' or \boxed{{42}}")
        before = [_at(row, key) for key in ("context", "passage", "body")]
        question = "\n".join([*(said for said in before if isinstance(said, str) and said.strip()), question])
        if choices := _choices(row):
            if not isinstance(at := _at(row, golds[0]), int):  # Which counts the choices from 0.
                at = choices.index(gold) if gold in choices else -1
            gold = ascii_uppercase[at] if 0 <= at < len(choices) else gold
            question += "\n" + "".join(f"\n{ascii_uppercase[n]}. {choice}" for n, choice in enumerate(choices))
        said = [_at(row, name) for name in (*SOLUTIONS, *golds)]
        family = next((row[key] for key in ("level", "subject", "type") if row.get(key) is not None), self.stem)
        given = next((row[key] for key in ("id", "unique_id") if row.get(key) is not None), None)
        # A row without an id is named by its question, so that adding rows renames none.
        problem = Problem(
            id=f"{self.stem}:{_digest(question) if given is None else given}",
            prompt=question + self.suffix,
            answer=gold,
            family=f"Level {family}" if isinstance(family, int) else str(family),
            source=self.source,
            question=question,
            solution=next((one for one in said if isinstance(one, str) and len(one) > len(gold) + len("####")), None),
            dated=next((found for name in DATES if (found := _day(_at(row, name))) is not None), None),
        )
        return problem, (asked[0], golds[0])

    def _named(self, column: str | None, rule: Sequence[str]) -> Sequence[str]:
        return rule if column is None else (column,)

    def _on_side(self, problem: Problem, held_out: bool) -> bool:
        return is_held_out(problem.prompt.removesuffix(self.suffix)) == held_out


@dataclass(frozen=True, slots=True)
class Found:
    """What rows are, and how they were read."""

    problems: tuple[Problem, ...]
    columns: Mapping[tuple[str, str], int]
    """(question, answer) -> how many rows were read from these columns."""
    n_repeats: int
    """Rows that repeat another one's question and answer."""
    skipped: tuple[str, ...]
    """What is wrong with each row that was left out."""

    @property
    def described(self) -> str:
        """One line: how many problems, from which columns, and what was merged or left out."""
        read = "; ".join(
            f"question from `{question}`, answer from `{answer}`" + (f" ({n} rows)" if len(self.columns) > 1 else "")
            for (question, answer), n in self.columns.items()
        )
        merged = f"; {self.n_repeats} repeated rows merged" if self.n_repeats else ""
        left_out = f"; {len(self.skipped)} bad rows left out" if self.skipped else ""
        return f"{len(self.problems)} problems: {read}{merged}{left_out}"


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _at(row: Mapping[str, object], name: str) -> object:
    """The value of a column, a dot leading into an object; None where it is not there."""
    value: object = row
    for key in name.split("."):
        named = {name.lower().replace(" ", "_"): name for name in value} if isinstance(value, Mapping) else {}
        value = value.get(key, value.get(named.get(key.lower(), key))) if isinstance(value, Mapping) else None
    return value


def _day(value: object) -> str | None:
    """A year, a month or a day as `Problem.dated` has it; of a time, its day. None for anything else."""
    text = str(value).removesuffix(".0").replace("/", "-")
    found = re.match(r"[12][0-9]{3}(?:-[0-9]{2}){0,2}(?![0-9.-])", text)
    return found and found[0]


def _choices(row: Mapping[str, object]) -> list[str]:
    """What is to choose from; of a right choice and wrong ones, in an order that tells nothing."""
    lists = [_at(row, key) for key in ("options", "choices", "choices.text")]
    wrong = [str(found) for n in range(1, 10) if (found := _at(row, f"incorrect_answer_{n}")) is not None]
    mixed = (
        sorted([*wrong, str(_at(row, "correct_answer"))], key=_digest)
        if wrong
        else next((found for found in lists if isinstance(found, list)), [])
    )
    texts = [tidied(str(one)) or "" for one in mixed]
    return texts if 1 < len(texts) <= len(ascii_uppercase) else []


def _question(value: object) -> str | None:
    """A text as it is; of a chat, what the user says last."""
    if isinstance(value, str):
        return value
    turns = [turn for turn in value if isinstance(turn, Mapping)] if isinstance(value, list) else []
    said = [
        next((text for key in ("content", "value", "text") if (text := _question(turn.get(key))) is not None), None)
        for turn in turns
        if turn.get("role", turn.get("from", "user")) in ("user", "human")
    ]
    return said[-1] if said else None


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
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        return None
    return str(int(value)) if float(value).is_integer() else str(value)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTask:
    """The rows of one file."""

    path: Path
    suffix: str = SUFFIX
    """What every prompt has after the question."""
    judged_by: Judge = field(default=MATH, repr=False)

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        return str(self.path) if self.judged_by is MATH else f"{self.path}:{self.judged_by.name}"

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` rows of one side of the split, in an order drawn from `generator`.

        Raises TaskError where there are fewer, and for every fault of the file that `found` names.
        """
        return self._shape.chosen(self.found().problems, n_problems, generator, held_out=held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002
        """That of `judged_by`."""
        return self.judged_by

    def found(self) -> Found:
        """Every row as a problem, in the order of the file. Raises as `rows_of_file` and `QuestionRows.problems` do."""
        return self._shape.problems(rows_of_file(self.path))

    @property
    def _shape(self) -> QuestionRows:
        return QuestionRows(source=str(self.path), stem=self.path.stem, suffix=self.suffix)


if TYPE_CHECKING:
    from datasets import Dataset

# As typed: an empty place between two colons is a configuration that is not named.
HUB = re.compile(
    r"hub:(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?"
    r"(:(?P<config>[\w.-]*)(:(?P<split>[\w.-]+))?)?",
    re.ASCII,
)
FORMATS = ("parquet", "json")
"""Formats of files that are read; all others, and all code of a data set, are refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HubTask:
    """The rows of one split, typed as `hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]]`."""

    name: str
    """`ORG/NAME`; also the path of a directory that is laid out as a data set of the hub."""
    revision: str | None = None
    """Branch, tag or commit; None is the hub's default branch, which may change under a study."""
    config: str | None = None
    """One of the data set's configurations; None where it has only one."""
    split: str = "test"
    suffix: str = SUFFIX
    """What every prompt has after the question."""

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        pinned = f"@{self.revision}" if self.revision else ""
        config = f":{self.config}" if self.config else ""
        # Without a configuration, its place stays empty.
        split = "" if self.split == "test" else f"{config or ':'}:{self.split}"
        return f"hub:{self.name}{pinned}{split or config}"

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` rows of one side of the split, in an order drawn from `generator`.

        The sides are those of `lab.tasks.problem`, not the data set's own. Raises TaskError where there are fewer, and
        for every fault that `found` names.
        """
        return self._shape.chosen(self.found().problems, n_problems, generator, held_out=held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002
        """The verifier of mathematical answers."""
        return MATH

    def found(self) -> Found:
        """Every row as a problem, in the order of the split.

        Raises TaskError where the data set cannot be had, is no table of a safe format, lacks the configuration or the
        split, and for what `QuestionRows.problems` finds wrong; its rows are counted from 1.
        """
        return self._shape.problems(
            (number, cast(Mapping[str, object], row)) for number, row in enumerate(self._split(), start=1)
        )

    @property
    def _shape(self) -> QuestionRows:
        return QuestionRows(source=self.typed, stem=self.name.rstrip("/").rpartition("/")[2], suffix=self.suffix)

    def _split(self) -> "Dataset":
        # Slow to import, and wanted by few commands.
        from datasets import load_dataset_builder
        from datasets.exceptions import DatasetNotFoundError

        try:
            builder = load_dataset_builder(self.name, self.config, revision=self.revision)
            if builder.name not in FORMATS:
                raise TaskError(f"{self.typed} is made of {builder.name}: want {' or '.join(FORMATS)} files")
            builder.download_and_prepare()
            return cast("Dataset", builder.as_dataset(split=self.split))
        except TaskError:
            raise
        except ConnectionError as error:
            raise TaskError(
                f"{self.typed} wants the Hugging Face hub, and there is no connection to it: want a network, without "
                "HF_HUB_OFFLINE and HF_DATASETS_OFFLINE, or download the rows elsewhere and name the path of a .jsonl "
                "file, which works offline"
            ) from error
        except (DatasetNotFoundError, FileNotFoundError) as error:
            raise TaskError(
                f"{self.typed}: no such data set, revision or files on the hub, or no right to read it (hf auth login)"
            ) from error
        except Exception as error:
            # Of another library, which raises what it likes; its own words name the configurations and splits.
            told = " ".join(str(error).split())
            raise TaskError(
                f"{self.typed}: {told}; want hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]], of {' or '.join(FORMATS)} files"
            ) from error


def hub_task(text: str) -> HubTask | None:
    """The task typed as `hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]]`, None for another text."""
    hub = HUB.fullmatch(text)
    return hub and HubTask(
        name=hub["name"], revision=hub["revision"], config=hub["config"] or None, split=hub["split"] or "test"
    )
