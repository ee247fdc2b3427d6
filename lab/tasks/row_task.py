"""Tasks of rows: those of a file, and those of a data set of the Hugging Face hub."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from lab.records.errors import TaskError, condensed
from lab.tasks.choice_answer import CHOICE
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Judge, Problem
from lab.tasks.program import CODE, is_code, require_leave
from lab.tasks.question_rows import BY_RULE, Found, QuestionRows, Reading
from lab.tasks.row_file import rows_of_file

if TYPE_CHECKING:
    from datasets import Dataset

# As typed: an empty place between two colons is a configuration that is not named.
HUB = re.compile(
    r"hub:(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?"
    r"(:(?P<config>[\w.-]*)(:(?P<split>[\w.-]+))?)?",
    re.ASCII,
)
FORMATS = ("parquet", "json", "csv")
"""Formats of files that are read; all others, and all code of a data set, are refused."""


def judge_of(problems: Sequence[Problem]) -> Judge:
    """What judges rows of which nobody says it; TaskError, with a row, where only some have tests, or choices."""
    for judge, what, having in (
        (CODE, "tests", [*map(is_code, problems)]),
        (CHOICE, "choices", [bool(problem.choices) for problem in problems]),
    ):
        if all(having):
            return judge
        if any(having):
            other = problems[having.index(False)]
            raise TaskError(
                f"{other.source}: {other.id} ({other.asked[:40]!r}) has no {what}, and others have: want rows of one "
                "kind, or name the judge behind the file, as in FILE:math"
            )
    return MATH


def permitted(judge: Judge, source: str, reading: Reading) -> Judge:
    """`judge`; TaskError where it runs programs and `reading` does not say that it may."""
    if judge is CODE:
        require_leave(source, run_code=reading.run_code)
    return judge


@dataclass(frozen=True, kw_only=True, slots=True)
class FileTask:
    """The rows of one file."""

    path: Path
    reading: Reading = BY_RULE
    judged_by: Judge | None = field(default=None, repr=False)
    """By rule where None: letters where every problem has choices, else mathematical answers."""
    whole: bool = False
    """Every problem is on either side: the other side of such a task is that of another."""

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        return str(self.path) if self.judged_by is None else f"{self.path}:{self.judged_by.name}"

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` rows of one side of the split, in an order drawn from `generator`.

        Raises TaskError where there are fewer, and for every fault of the file that `found` names.
        """
        return self.found().chosen(n_problems, generator, held_out=None if self.whole else held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:
        """That of `judged_by`, or by rule; TaskError where programs would be run and nobody said so."""
        return permitted(self.judged_by or judge_of(problems), self.typed, self.reading)

    def found(self) -> Found:
        """Every row as a problem, in the order of the file. Raises as `rows_of_file` and `QuestionRows.problems` do."""
        return self._shape.problems(rows_of_file(self.path))

    @property
    def _shape(self) -> QuestionRows:
        return QuestionRows(source=str(self.path), stem=self.path.stem, reading=self.reading)


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
    reading: Reading = BY_RULE
    judged_by: Judge | None = field(default=None, repr=False)
    """As `FileTask` has it."""
    whole: bool = False
    """As `FileTask` has it."""
    short: str | None = None
    """What it is called among `lab.tasks.benchmarks.BENCHMARKS`."""

    @property
    def typed(self) -> str:
        """What a user would type for it."""
        if self.short is not None:
            return self.short
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
        return self.found().chosen(n_problems, generator, held_out=None if self.whole else held_out)

    def judge(self, problems: Sequence[Problem]) -> Judge:
        """That of `judged_by`, or by rule; TaskError where programs would be run and nobody said so."""
        return permitted(self.judged_by or judge_of(problems), self.typed, self.reading)

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
        return QuestionRows(source=self.typed, stem=self.name.rstrip("/").rpartition("/")[2], reading=self.reading)

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
            raise TaskError(
                f"{self.typed}: {condensed(error)}; want hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]], of "
                f"{' or '.join(FORMATS)} files"
            ) from error


def hub_task(text: str) -> HubTask | None:
    """The task typed as `hub:ORG/NAME[@REVISION][:CONFIG[:SPLIT]]`, None for another text."""
    hub = HUB.fullmatch(text)
    return hub and HubTask(
        name=hub["name"], revision=hub["revision"], config=hub["config"] or None, split=hub["split"] or "test"
    )
