"""StepGrammar: how a task's worked answers fall into steps, for measures of the process."""

from collections.abc import Callable
from dataclasses import dataclass

from lab.tasks.problem import Problem


@dataclass(frozen=True, slots=True)
class Cut:
    """A completion up to and with one of its steps."""

    text: str
    states: frozenset[str]
    """What the steps so far state as results."""


@dataclass(frozen=True, slots=True)
class Falsified:
    """A completion up to a step whose result was replaced by a wrong one."""

    text: str
    implied: str
    """The answer that follows from it if all later steps are true."""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a completion, in characters."""

    start: int
    end: int
    """One behind its last character."""
    label: str
    """What it is, in the task's own words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepGrammar:
    """What must be known of a task to cut, question, falsify and label its worked answers."""

    ask: str
    """Written behind a cut text, it asks for the answer at once."""
    cuts: Callable[[Problem, str], tuple[Cut, ...]]
    """The completion after 0, 1, ... n steps; empty unless every step is there and true."""
    falsify: Callable[[Problem, Cut], Falsified]
    """A cut of at least one step with the last one made wrong."""
    spans: Callable[[Problem, str], tuple[Span, ...]]
    """What the parts of any completion are, in order; what cannot be read is in no span."""
