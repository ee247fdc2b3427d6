r"""QuestionRows: rows in the shape of GSM8K or MATH, wherever they come from, and the problems that they are.

GSM8K: `{"question": ..., "answer": "... #### 42"}`. MATH: `{"problem": ..., "solution": "... \boxed{42} ..."}`, or
`{"problem": ..., "answer": "42"}`, or both, where `answer` counts. Optional: `id` or `unique_id`; `level`, `subject` or
`type`, of which the first one there names the family, a number among levels as `Level 4`.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from lab.records.errors import TaskError
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem, is_held_out
from lab.tasks.stated_answer import last_boxes, tidied

SUFFIX = "\n\nThink step by step, and put the final answer in \\boxed{}.\n"
"""What every prompt has after the question, unless another is given."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionRows:
    """Where rows come from, which every fault names, and how they are asked."""

    source: str
    """As a user would type it."""
    stem: str
    """What the ids of problems begin with, and the family of rows that name none."""
    suffix: str = SUFFIX
    """What every prompt has after the question."""

    def problems(self, rows: Iterable[tuple[int, Mapping[str, object]]]) -> tuple[Problem, ...]:
        """Every (number, row) as a problem, in the order given; the number is what faults call the row.

        Raises TaskError, with the source and the row, for a missing key, a value that is not a string, no final answer,
        and an id or question that repeats.
        """
        problems: list[Problem] = []
        row_of: dict[str, int] = {}
        for number, row in rows:
            problem = self._problem(number, row)
            if problem.id in row_of:
                raise self.broken(
                    number, f"has the id {problem.id!r} of row {row_of[problem.id]}: remove one, or give other ids"
                )
            row_of[problem.id] = number
            problems.append(problem)
        return tuple(problems)

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

    def broken(self, number: int, fault: str) -> TaskError:
        """The error of one row."""
        return TaskError(f"{self.source}, row {number} {fault}")

    def _problem(self, number: int, row: Mapping[str, object]) -> Problem:
        question, gold = self._question_and_gold(number, row)
        family = next((row[key] for key in ("level", "subject", "type") if key in row), self.stem)
        given = next((row[key] for key in ("id", "unique_id") if key in row), None)
        # A row without an id is named by its question, so that adding rows renames none.
        digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return Problem(
            id=f"{self.stem}:{digest if given is None else given}",
            prompt=question + self.suffix,
            answer=gold,
            family=f"Level {family}" if isinstance(family, int) else str(family),
            source=self.source,
        )

    def _question_and_gold(self, number: int, row: Mapping[str, object]) -> tuple[str, str]:
        if "question" in row:
            question, worked = self._text(number, row, "question"), self._text(number, row, "answer")
            gold = tidied(worked.rpartition("####")[2]) if "####" in worked else None
            hint = "want a last line '#### 42'"
        elif "problem" in row:
            question, hint = self._text(number, row, "problem"), r"want \boxed{42} in 'solution', or a bare 'answer'"
            solution = self._text(number, row, "solution") if "solution" in row or "answer" not in row else ""
            gold = (
                tidied(self._text(number, row, "answer"))
                if "answer" in row
                else tidied(", ".join(last_boxes(solution)))
            )
        else:
            keys = ", ".join(map(repr, row)) or "no key"
            raise self.broken(
                number, f"has {keys}: want 'question' and 'answer', or 'problem' and 'solution' or 'answer'"
            )
        if not question.strip():
            raise self.broken(number, "has an empty question: want some text")
        if gold is None:
            raise self.broken(number, f"has no final answer: {hint}")
        return question, gold

    def _text(self, number: int, row: Mapping[str, object], key: str) -> str:
        match row.get(key):
            case str(text):
                return text
            case None if key not in row:
                raise self.broken(number, f"has no {key!r}, only {', '.join(map(repr, row))}: add it")
            case other:
                raise self.broken(
                    number, f"has {key!r} = {str(other)[:40]} of type {type(other).__name__}: want a string"
                )

    def _on_side(self, problem: Problem, held_out: bool) -> bool:
        return is_held_out(problem.prompt.removesuffix(self.suffix)) == held_out


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonlTask:
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

        Raises TaskError where there are fewer, and for every fault of the file that `rows` names.
        """
        return self._shape.chosen(self.rows(), n_problems, generator, held_out=held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002
        """That of `judged_by`."""
        return self.judged_by

    def rows(self) -> tuple[Problem, ...]:
        """Every row as a problem, in the order of the file.

        Raises TaskError, with the file and the row counted from 1, for a missing or empty file, text that is not UTF-8,
        broken JSON, and what `QuestionRows.problems` finds wrong.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise TaskError(f"cannot read {self.path}: {error.strerror or error}; want a JSONL file") from error
        problems = self._shape.problems(self._objects(lines))
        if not problems:
            raise TaskError(f"{self.path} is empty: want one JSON object a line")
        return problems

    @property
    def _shape(self) -> QuestionRows:
        return QuestionRows(source=str(self.path), stem=self.path.stem, suffix=self.suffix)

    def _objects(self, lines: list[bytes]) -> Iterator[tuple[int, dict[str, object]]]:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except UnicodeDecodeError as error:
                raise self._shape.broken(
                    number, f"is not UTF-8 (byte {error.start}): save the file as UTF-8"
                ) from error
            except (ValueError, RecursionError) as error:
                raise self._shape.broken(number, f"is not JSON ({error}): want one object a line") from error
            if not isinstance(row, dict):
                raise self._shape.broken(number, f"is a JSON {type(row).__name__}: want an object")
            yield number, row


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
        for every fault that `rows` names.
        """
        return self._shape.chosen(self.rows(), n_problems, generator, held_out=held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:  # noqa: ARG002
        """The verifier of mathematical answers."""
        return MATH

    def rows(self) -> tuple[Problem, ...]:
        """Every row as a problem, in the order of the split.

        Raises TaskError where the data set cannot be had, is no table of a safe format, lacks the configuration or the
        split, and for what `QuestionRows.problems` finds wrong; its rows are counted from 1.
        """
        found = self._shape.problems(
            (number, cast(Mapping[str, object], row)) for number, row in enumerate(self._split(), start=1)
        )
        if not found:
            raise TaskError(f"{self.typed} is empty: want some rows")
        return found

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
