"""JsonlTask: problems from a JSONL file in the shape of GSM8K or MATH, as `lab.tasks.question_rows` describes them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.errors import TaskError
from lab.tasks.problem import Problem
from lab.tasks.question_rows import SUFFIX, QuestionRows


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonlTask:
    """The rows of one file."""

    path: Path
    suffix: str = SUFFIX
    """What every prompt has after the question."""

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` rows of one side of the split, in an order drawn from `generator`.

        Raises TaskError where there are fewer, and for every fault of the file that `rows` names.
        """
        return self._shape.chosen(self.rows(), n_problems, generator, held_out=held_out)

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
