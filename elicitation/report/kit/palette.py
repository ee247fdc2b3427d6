"""The palette: inks after Okabe and Ito, one meaning each, and what each becomes on a dark page."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import polars as pl

PAPER, INK, MUTED, GRID = "#ffffff", "#1b1e23", "#5c6470", "#e3e6ea"
BASE, STEERED, ASSISTED, TUNED = "#23272e", "#0066a8", "#cc79a7", "#d55e00"
"""The base model; help without the tuned model; help from it at test time; the tuned model itself."""
RANKED = (STEERED, "#009e73", "#2f9ee0", "#6b4d00")
"""Inks of the rungs that need nothing from the tuned model, when several share one plot."""
PUBLISHED_INK = "#5b2bd0"
"""A published method."""
LOOKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "prompt": (RANKED[1], "square"),
        "decoding": (RANKED[2], "triangle-up"),
        "vector": (STEERED, "pentagon"),
        "own router": (RANKED[3], "star"),
        "tuned router": (ASSISTED, "triangle-down"),
        "selector": (ASSISTED, "hexagon"),
        "takeover": (ASSISTED, "cross"),
        "published": (PUBLISHED_INK, "x"),
    }
)
"""Kind of help -> ink and symbol; pink is help from the tuned model at test time."""

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
    PUBLISHED_INK: "#7b4dff",
}
_BAND = 0.14
GAIN = f"rgba({0x5C},{0x64},{0x70},0.09)"
"""The stretch between the base and the tuned model."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArmStyle:
    """How one arm looks in every plot; never told apart by ink alone."""

    ink: str
    symbol: str
    dash: Literal["solid", "dot", "dash"]
    faint: bool
    """Drawn lighter: a control."""


def faded(ink: str, alpha: float = _BAND) -> str:
    """The ink as a translucent fill."""
    red, green, blue = (int(ink[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


DARK: Mapping[str, str] = MappingProxyType(
    _DARK | {faded(ink): faded(dark, 0.2) for ink, dark in _DARK.items()} | {GAIN: "rgba(167,174,185,0.1)"}
)
"""Light colour -> dark colour, for every colour a figure uses."""


def arm_styles(ladder: pl.DataFrame) -> dict[str, ArmStyle]:
    """The style of every arm of a ladder: ends black and vermilion, rungs by kind of help, a control as its rung."""
    arms = ladder.unique("arm", keep="first", maintain_order=True).sort("order", maintain_order=True)
    ends = arms.filter(pl.col("kind") == "end")["arm"].to_list()
    styles = {
        arm: ArmStyle(ink=ink, symbol=symbol, dash="solid", faint=False)
        for arm, ink, symbol in zip(ends, (BASE, TUNED), ("circle", "diamond"), strict=False)
    }
    for row in arms.filter(pl.col("kind") == "rung").iter_rows(named=True):
        ink, symbol = LOOKS.get(row["family"], (MUTED, "circle"))
        styles[row["arm"]] = ArmStyle(ink=ink, symbol=symbol, dash="solid", faint=False)
    for row in arms.filter(pl.col("kind") == "control").iter_rows(named=True):
        rung = styles.get(row["control_of"])
        ink = rung.ink if rung else MUTED
        styles[row["arm"]] = ArmStyle(ink=ink, symbol="circle-open", dash="dot", faint=True)
    return styles


def completed(styles: Mapping[str, ArmStyle], arms: Iterable[str]) -> dict[str, ArmStyle]:
    """`styles` with an ink for every arm that has none, in order of appearance."""
    found = dict(styles)
    for arm in arms:
        if arm not in found:
            ink = RANKED[len(found) % len(RANKED)]
            found[arm] = ArmStyle(ink=ink, symbol="circle", dash="solid", faint=False)
    return found
