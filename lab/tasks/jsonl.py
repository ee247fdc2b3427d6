r"""JsonlTask: problems from a JSONL file in the shape of GSM8K or MATH.

GSM8K: `{"question": ..., "answer": "... #### 42"}`. MATH: `{"problem": ..., "solution": "... \boxed{42} ..."}`, or
`{"problem": ..., "answer": "42"}`, or both, where `answer` counts. Optional: `id` or `unique_id`; `level`, `subject` or
`type`, of which the first one there names the family.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab.errors import TaskError
from lab.tasks.final_answer import last_boxed, tidied
from lab.tasks.problem import Problem
from lab.tasks.split import is_held_out


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonlTask:
    """The rows of one file."""

    path: Path
    suffix: str = "\n\nThink step by step, and put the final answer in \\boxed{}.\n"
    """What every prompt has after the question."""

    def problems(
        self, n_problems: int, generator: np.random.Generator, *, held_out: bool = True
    ) -> tuple[Problem, ...]:
        """`n_problems` rows of one side of the split, in an order drawn from `generator`.

        Raises TaskError where there are fewer, and for every fault of the file that `rows` names.
        """
        side = sorted((row for row in self.rows() if self._on_side(row, held_out)), key=lambda row: row.id)
        if n_problems > len(side):
            kind = "held-out" if held_out else "training"
            raise TaskError(
                f"{self.path}: asked for {n_problems} {kind} problems, it has {len(side)}: want fewer, or more rows"
            )
        return tuple(side[index] for index in generator.permutation(len(side))[:n_problems])

    def rows(self) -> tuple[Problem, ...]:
        """Every row as a problem, in the order of the file.

        Raises TaskError, with the file and the row counted from 1, for a missing or empty file, text that is not UTF-8,
        broken JSON, a missing key, a value that is not a string, no final answer, and an id or question that repeats.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise TaskError(f"cannot read {self.path}: {error.strerror or error}; want a JSONL file") from error
        problems: list[Problem] = []
        row_of: dict[str, int] = {}
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            problem = self._problem(number, line)
            if problem.id in row_of:
                raise self._broken(
                    number, f"has the id {problem.id!r} of row {row_of[problem.id]}: remove one, or give other ids"
                )
            row_of[problem.id] = number
            problems.append(problem)
        if not problems:
            raise TaskError(f"{self.path} is empty: want one JSON object a line")
        return tuple(problems)

    def _problem(self, number: int, line: bytes) -> Problem:
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise self._broken(number, f"is not UTF-8 (byte {error.start}): save the file as UTF-8") from error
        except (ValueError, RecursionError) as error:
            raise self._broken(number, f"is not JSON ({error}): want one object a line") from error
        if not isinstance(row, dict):
            raise self._broken(number, f"is a JSON {type(row).__name__}: want an object")
        question, gold = self._question_and_gold(number, row)
        family = next((row[key] for key in ("level", "subject", "type") if key in row), self.path.stem)
        given = next((row[key] for key in ("id", "unique_id") if key in row), None)
        # A row without an id is named by its question, so that adding rows renames none.
        digest = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return Problem(
            id=f"{self.path.stem}:{digest if given is None else given}",
            prompt=question + self.suffix,
            answer=gold,
            family=str(family),
            source=str(self.path),
        )

    def _question_and_gold(self, number: int, row: dict[str, object]) -> tuple[str, str]:
        if "question" in row:
            question, worked = self._text(number, row, "question"), self._text(number, row, "answer")
            gold = tidied(worked.rpartition("####")[2]) if "####" in worked else None
            hint = "want a last line '#### 42'"
        elif "problem" in row:
            question, hint = self._text(number, row, "problem"), r"want \boxed{42} in 'solution', or a bare 'answer'"
            solution = self._text(number, row, "solution") if "solution" in row or "answer" not in row else ""
            gold = tidied(self._text(number, row, "answer")) if "answer" in row else tidied(last_boxed(solution) or "")
        else:
            keys = ", ".join(map(repr, row)) or "no key"
            raise self._broken(
                number, f"has {keys}: want 'question' and 'answer', or 'problem' and 'solution' or 'answer'"
            )
        if not question.strip():
            raise self._broken(number, "has an empty question: want some text")
        if gold is None:
            raise self._broken(number, f"has no final answer: {hint}")
        return question, gold

    def _text(self, number: int, row: dict[str, object], key: str) -> str:
        match row.get(key):
            case str(text):
                return text
            case None if key not in row:
                raise self._broken(number, f"has no {key!r}, only {', '.join(map(repr, row))}: add it")
            case other:
                raise self._broken(
                    number, f"has {key!r} = {str(other)[:40]} of type {type(other).__name__}: want a string"
                )

    def _on_side(self, row: Problem, held_out: bool) -> bool:
        return is_held_out(row.prompt.removesuffix(self.suffix)) == held_out

    def _broken(self, number: int, fault: str) -> TaskError:
        return TaskError(f"{self.path}, row {number} {fault}")
