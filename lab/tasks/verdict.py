"""Verdict: what a verifier says of one completion."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from lab.tasks.problem import Problem


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Two separate judgements and the reason for the first one that failed."""

    answer_correct: bool
    """The final answer equals the gold answer."""
    process_valid: bool | None
    """Every written step is true and used; None where the task's process cannot be checked."""
    reason: str
    """"ok", or the first fault found, in a few words."""

    @property
    def strict(self) -> bool:
        """Correct by a valid process; where the process cannot be checked, correct."""
        return self.answer_correct and self.process_valid is not False


Verifier: TypeAlias = Callable[[Problem, str], Verdict]
"""(problem, completion text) -> verdict. A verifier never raises on any text."""
