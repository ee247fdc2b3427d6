"""The palette: inks after Okabe and Ito, one meaning each, and what each becomes on a dark page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

PAPER, INK, MUTED, GRID = "#ffffff", "#1b1e23", "#5c6470", "#e3e6ea"
BASE, STEERED, ASSISTED, TUNED = "#23272e", "#0066a8", "#cc79a7", "#d55e00"
"""The base model; help without the tuned model; help from it at test time; the tuned model itself."""
RANKED = (STEERED, "#009e73", "#2f9ee0", "#6b4d00")
"""Inks of what needs nothing from the tuned model, when several share one plot."""
VIOLET = "#5b2bd0"
_DARK = {
    PAPER: "#15171b",
    INK: "#e9e7e2",
    MUTED: "#a7aeb9",
    GRID: "#2c3038",
    BASE: "#f4f2ee",
    STEERED: "#3d88d8",
    ASSISTED: "#d67ab0",
    TUNED: "#e8702a",
    "#009e73": "#2fc79c",
    "#2f9ee0": "#8cccff",
    "#6b4d00": "#e8c030",
    VIOLET: "#7b4dff",
}
_BAND = 0.14
SHADE = f"rgba({0x5C},{0x64},{0x70},0.09)"
"""A stretch of a plot that is set apart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How one thing looks in every plot; never told apart by ink alone."""

    ink: str
    symbol: str
    """One of plotly's; one that ends in `-open` is hollow."""
    dash: Literal["solid", "dot", "dash", "none"] = "solid"
    """Of its line; `none` has no line."""
    faint: bool = False
    """Drawn lighter, as controls are."""


BASE_STYLE = Style(ink=BASE, symbol="circle")
TUNED_STYLE = Style(ink=TUNED, symbol="diamond")


def hollow(ink: str, symbol: str = "circle-open") -> Style:
    """A control, in the ink of what it controls."""
    return Style(ink=ink, symbol=symbol, dash="dot", faint=True)


def faded(ink: str, alpha: float = _BAND) -> str:
    """The ink as a translucent fill."""
    red, green, blue = (int(ink[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


DARK: Mapping[str, str] = MappingProxyType(
    _DARK | {faded(ink): faded(dark, 0.2) for ink, dark in _DARK.items()} | {SHADE: "rgba(167,174,185,0.1)"}
)
"""Light colour -> dark colour, for every colour a figure uses."""


def completed(styles: Mapping[str, Style], names: Iterable[str]) -> dict[str, Style]:
    """`styles` with an ink for every name that has none, in order of appearance."""
    found = dict(styles)
    for name in names:
        if name not in found:
            found[name] = Style(ink=RANKED[len(found) % len(RANKED)], symbol="circle")
    return found
