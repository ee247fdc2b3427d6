"""Bits axis: powers of ten of bits per token, with a strip of its own for exactly 0."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsAxis:
    """Bits to places: the strip ends at place 0, where the first power of ten stands; each power is one wide."""

    strip: float
    """Width of the strip; 0 where no arm is in it."""
    first: int
    """Exponent of the first power of ten."""
    last: int

    @property
    def width(self) -> float:
        """Width of the powers of ten."""
        return float(self.last - self.first)

    def place(self, n_bits: float) -> float:
        """Where a positive number of bits stands; what is beyond an end is drawn at that end."""
        return min(max(0.0, math.log10(n_bits) - self.first), self.width) if n_bits > 0 else 0.0

    def ticks(self) -> Iterator[tuple[float, str]]:
        """(place, label) of 0, where some arm has it, and of every power of ten."""
        if self.strip:
            yield -self.strip / 2, "0"
        for exponent in range(self.first, self.last + 1):
            yield float(exponent - self.first), f"{10.0**exponent:g}"


def bits_axis(arms: Sequence[Mapping[str, Any]]) -> BitsAxis:
    """An axis that holds the `bits_per_token` of all arms, rows of a `LADDER`."""
    paid = [arm["bits_per_token"] for arm in arms if 0 < arm["bits_per_token"] < math.inf]
    free = sum(_room(arm) for arm in arms if arm["bits_per_token"] == 0)
    first = math.floor(math.log10(min(paid, default=0.1)))
    last = max(first + 1, math.ceil(math.log10(max(paid, default=1.0))))
    # As much room for the strip as its marks need beside the others, between a quarter and two thirds of the whole.
    part = min(0.66, max(0.25, free / (free + 2 * len(paid) + 4)))
    return BitsAxis(strip=(last - first) * part / (1 - part) if free else 0.0, first=first, last=last)


def places(arms: Sequence[Mapping[str, Any]], axis: BitsAxis) -> list[float]:
    """Arms without bits stand beside each other in the strip, in the order given, the others at their bits."""
    rooms = [_room(arm) if arm["bits_per_token"] == 0 else 0 for arm in arms]
    found, taken = [], 0
    for arm, room in zip(arms, rooms, strict=True):
        part = 0.03 + 0.94 * (taken + room / 2) / max(sum(rooms), 1)
        found.append(axis.strip * (part - 1) if room else axis.place(arm["bits_per_token"]))
        taken += room
    return found


def _room(arm: Mapping[str, Any]) -> int:
    """The number of a rung needs room beside its mark."""
    return 2 if arm["kind"] == "rung" else 1
