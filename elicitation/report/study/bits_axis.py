"""Bits axis: bits per token on a logarithmic axis, with a strip of its own for exactly 0."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_MARGIN = 0.08
"""Decades of room before the first and after the last mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsAxis:
    """Bits to places, in decades: the strip ends at place 0, and `gap` behind it a logarithmic axis begins."""

    strip: float
    """Width of the strip; 0 where no arm is in it."""
    gap: float
    start: float
    """Logarithm to base 10 of the least bits on the axis."""
    stop: float

    @property
    def end(self) -> float:
        """Place of the most bits."""
        return self.gap + self.stop - self.start

    def place(self, n_bits: float) -> float:
        """Where a positive number of bits stands; what is beyond an end is drawn at that end."""
        return self.gap + min(max(0.0, math.log10(n_bits) - self.start), self.stop - self.start) if n_bits > 0 else 0.0

    def ticks(self) -> Iterator[tuple[float, str]]:
        """(place, label) of 0, where some arm has it, and of round numbers of bits."""
        if self.strip:
            yield -self.strip / 2, "0"
        steps = (1, 2, 5) if self.stop - self.start < 2 else (1,)
        for exponent in range(math.floor(self.start), math.ceil(self.stop) + 1):
            for step in steps:
                if self.start <= math.log10(step) + exponent <= self.stop:
                    yield self.place(step * 10.0**exponent), f"{step * 10.0**exponent:g}"


def bits_axis(arms: Sequence[Mapping[str, Any]]) -> BitsAxis:
    """An axis that holds the bits per token of all arms, rows of a `LADDER`, with their intervals."""
    paid = [arm for arm in arms if 0 < arm["bits_per_token"] < math.inf]
    ends = [arm[name] for arm in paid for name in ("bits_low", "bits_per_token", "bits_high")]
    known = [math.log10(end) for end in ends if 0 < end < math.inf] or [-1.0, 0.0]
    start, stop = min(known) - _MARGIN, max(known) + _MARGIN
    free = sum(_room(arm) for arm in arms if arm["bits_per_token"] == 0)
    if not free:
        return BitsAxis(strip=0.0, gap=0.0, start=start, stop=stop)
    # As much room for the strip as its marks need beside the others, between a quarter and two thirds of the whole.
    part = min(0.66, max(0.25, free / (free + 2 * len(paid) + 4)))
    return BitsAxis(strip=(stop - start) * part / (1 - part), gap=0.05 * (stop - start), start=start, stop=stop)


def places(arms: Sequence[Mapping[str, Any]], axis: BitsAxis) -> list[float]:
    """Arms without bits stand beside each other in the strip, in the order given, the others at their bits."""
    rooms = [_room(arm) if arm["bits_per_token"] == 0 else 0 for arm in arms]
    found, taken = [], 0
    for arm, room in zip(arms, rooms, strict=True):
        part = 0.02 + 0.96 * (taken + room / 2) / max(sum(rooms), 1)
        found.append(axis.strip * (part - 1) if room else axis.place(arm["bits_per_token"]))
        taken += room
    return found


def _room(arm: Mapping[str, Any]) -> int:
    """The number of a rung needs room beside its mark."""
    return 2 if arm["kind"] == "rung" else 1
