"""Act: what happens at a token that is routed away from the base model."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeAlias

from lab.records.errors import VectorError
from steering.edit import Add
from steering.gate import Everywhere
from steering.hybrid.vector_table import PerCategory, VectorTable


@dataclass(frozen=True, slots=True)
class Steer:
    """The base model writes under an edit, such as a vector added, of the position it reads last.

    The base's cache then holds that position as it was without the edit ("forgotten": no later token sees the edit
    unless it is routed too), or as it is with the edit ("kept": all later tokens see it).
    """

    table: VectorTable
    memory: Literal["forgotten", "kept"] = "forgotten"


@dataclass(frozen=True, slots=True)
class TunedChooser:
    """The candidate to which the tuned model gives the highest probability; the first of equals."""


@dataclass(frozen=True, slots=True)
class RandomChooser:
    """A uniform draw from the candidates, by the row's key and the step: a control."""


@dataclass(frozen=True, slots=True)
class FirstChooser:
    """The candidate of the first dose and the first window."""


Chooser: TypeAlias = TunedChooser | RandomChooser | FirstChooser
"""Which of the candidates of a sweep is written."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """The base model writes a candidate for each dose and window, and the chooser picks one; it is then certain.

    A candidate is the most likely token after the edit, scaled by the dose, at the last tokens of the text, as many as
    the window says. Candidates are ordered by dose, then by window. The base's cache holds nothing of them.
    """

    table: VectorTable
    """Of `Add`s that act everywhere."""
    doses: tuple[float, ...]
    windows: tuple[int | None, ...]
    """None is the whole text, the prompt included."""
    chooser: Chooser

    def __post_init__(self) -> None:
        if not all(isinstance(edit, Add) and isinstance(edit.where, Everywhere) for edit in self.table.edits):
            raise VectorError(
                "a sweep of doses and windows was given edits other than Add, or with a gate: want Add(vector)"
            )
        if not self.doses or not all(map(isfinite, self.doses)):
            raise VectorError(f"a sweep over the doses {list(self.doses)}: want at least one, and finite numbers")
        if not self.windows or not all(window is None or window >= 1 for window in self.windows):
            raise VectorError(
                f"a sweep over the windows {list(self.windows)}: want at least one, each a number of tokens from 1 on "
                "or None for the whole text"
            )


@dataclass(frozen=True, slots=True)
class Takeover:
    """The tuned model's own distribution is used."""


@dataclass(frozen=True, slots=True)
class SecondChoice:
    """The base model's own second choice is written: a control of what the gate alone does."""


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """A uniform draw from the base model's first choices is written: a control."""

    top: int = 5
    """How many first choices."""


Intervention: TypeAlias = Steer | Sweep | Takeover | SecondChoice | LikelyToken
"""What happens at a routed token."""


def uses_tuned(intervention: Intervention) -> bool:
    """Whether the act reads the tuned model while the hybrid writes."""
    match intervention:
        case Takeover() | Sweep(chooser=TunedChooser()):
            return True
        case _:
            return reads_tuned_category(intervention)


def reads_tuned_category(intervention: Intervention) -> bool:
    """Whether a category of the tuned model's stream says what a routed token is steered by."""
    table = table_of(intervention)
    return isinstance(table, PerCategory) and table.reader == "tuned"


def table_of(intervention: Intervention) -> VectorTable | None:
    """The edits of an act, where it has some."""
    match intervention:
        case Steer(table=table) | Sweep(table=table):
            return table
        case Takeover() | SecondChoice() | LikelyToken():
            return None
