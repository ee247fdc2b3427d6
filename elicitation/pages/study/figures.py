"""The figures of a study's report: each a pure function from a table to a plotly figure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go
import polars as pl
from markupsafe import Markup

from elicitation.calibration.record import Leak, leak
from elicitation.pages.kit import palette
from elicitation.pages.kit.canvas import WIDE, Canvas, bars, blank, key, level, marks, quiet_axis, word
from elicitation.pages.kit.markup import joined, markup, shortened
from elicitation.pages.kit.numerals import BITS, POINTS, WHOLE, ends, percent
from elicitation.pages.kit.palette import Style, completed, hollow
from elicitation.pages.kit.plots import Horizontal, curve_panels, dot, dot_plot, mark_gain
from elicitation.pages.record_words import LEAKY, is_leaky
from elicitation.pages.study.ladder import bare
from elicitation.pages.study.tables import rungs

LOOKS: Mapping[str, Style] = MappingProxyType(
    {
        "prompt": Style(ink=palette.RANKED[1], symbol="square"),
        "decoding": Style(ink=palette.RANKED[2], symbol="triangle-up"),
        "vector": Style(ink=palette.STEERED, symbol="pentagon"),
        "own router": Style(ink=palette.RANKED[3], symbol="star"),
        "tuned router": Style(ink=palette.ASSISTED, symbol="triangle-down"),
        "selector": Style(ink=palette.ASSISTED, symbol="hexagon"),
        "takeover": Style(ink=palette.ASSISTED, symbol="cross"),
        "published": Style(ink=palette.VIOLET, symbol="x"),
    }
)
"""Kind of help -> its look; pink is help from the tuned model at test time, violet a published method."""
UNKNOWN = Style(ink=palette.MUTED, symbol="circle")
"""The look of a kind that has none."""
NO_STYLES: Mapping[str, Style] = MappingProxyType({})
"""Inks in order of appearance; `arm_styles(ladder)` gives the ones that match the ladder."""
CHECKED = {"strict": "Strict: right by a valid process", "answer": "Answer only"}
UNCHECKED = {"answer": "Answer"}
"""The only panel of a task whose process cannot be checked: its strict curves are its answer curves."""


def arm_styles(ladder: pl.DataFrame) -> dict[str, Style]:
    """The style of every arm of a ladder: ends black and vermilion, rungs by kind of help, a control as its rung."""
    arms = ladder.unique("arm", keep="first", maintain_order=True).sort("order", maintain_order=True)
    ends = arms.filter(pl.col("kind") == "end")["arm"]
    styles = dict(zip(ends, (palette.BASE_STYLE, palette.TUNED_STYLE), strict=False))
    for arm, family in arms.filter(pl.col("kind") == "rung").select("arm", "family").iter_rows():
        styles[arm] = LOOKS.get(family, UNKNOWN)
    for arm, rung in arms.filter(pl.col("kind") == "control").select("arm", "control_of").iter_rows():
        styles[arm] = hollow(styles.get(rung, UNKNOWN).ink)
    return styles


def ladder_figure(ladder: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """Strict pass@1 of every arm, the base at the bottom, the tuned model at the top.

    >>> pair, task = el.pair("zero-base", "zero-rl"), el.task("chain", n=8)
    >>> el.ladder_figure(el.ladder(pair, task, el.sample(pair, task), {})).layout.xaxis.title.text
    'Problems solved at the first try, strict'
    """
    styles, dots = arm_styles(ladder), []
    rows = rungs(ladder, "strict")
    for row in rows.iter_rows(named=True):
        share = "" if row["kind"] == "end" or math.isnan(row["share"]) else WHOLE.said(row, "share")
        note = share if row["refusal"] is None or row["kind"] == "end" else "refused"
        dots.append(dot(row, row["label"], styles[row["arm"]], of="accuracy", note=note))
    figure = dot_plot(dots, canvas, axis="Problems solved at the first try, strict", note_title="share of the gain")
    base, tuned = rows.filter(pl.col("kind") == "end")["accuracy"]
    mark_gain(figure, base, tuned, canvas)
    return figure


def guess_figure(guess: pl.DataFrame, canvas: Canvas = WIDE, styles: Mapping[str, Style] = NO_STYLES) -> go.Figure:
    """Answer-only accuracy against the answers of other problems."""
    inks = completed(styles, guess["arm"])
    dots = [dot(row, row["label"], inks[row["arm"]]) for row in guess.iter_rows(named=True)]
    return dot_plot(dots, canvas, axis="Right by guessing, answer only")


def _horizontal(column: str, frame: pl.DataFrame) -> Horizontal:
    """The axis of the tries, of the reliabilities, or of families: in the order of the table, with names cut to fit."""
    values = frame[column].unique(maintain_order=True).to_list()
    if column == "k":
        places = {k: math.log2(k) for k in sorted(values)}
        # Each step on the axis doubles k.
        ticks = [(place, str(k)) for k, place in places.items() if place.is_integer()]
        return Horizontal(column="k", title="Tries allowed, k", positions=places, ticks=ticks)
    if column == "tau":
        ticks = [(tau / 4, percent(tau / 4, 0)) for tau in range(5)]
        places = {tau: float(tau) for tau in values}
        return Horizontal(column="tau", title="Reliability asked for, τ", positions=places, ticks=ticks)
    room = max(3, 52 // max(len(values), 1))
    ticks = [(float(index), shortened(name, room)) for index, name in enumerate(values)]
    places = {name: float(index) for index, name in enumerate(values)}
    return Horizontal(column="family", title="", positions=places, ticks=ticks, spread="bars")


_CURVES = {"k": "Problems solved", "tau": "Problems solved so often", "family": "Solved at the first try"}
"""Column of the horizontal axis -> title of the vertical one."""


def curve_figure(
    column: str,
    frame: pl.DataFrame,
    canvas: Canvas = WIDE,
    styles: Mapping[str, Style] = NO_STYLES,
    *,
    process_checked: bool = True,
) -> go.Figure:
    """`PASS_AT_K` by `k`, `COVER` by `tau`, or `FAMILIES` by `family`; one line an arm."""
    titles, axis = CHECKED if process_checked else UNCHECKED, _CURVES[column]
    return curve_panels(frame, _horizontal(column, frame), canvas, styles, by="arm", titles=titles, axis=axis)


Arm = Mapping[str, Any]
"""A row of a `LADDER`."""
Scale = Literal["share", "gain"]
"""Shares of the gain, or points of accuracy where shares are refused."""
_HEIGHT = 480
_REACH = (-0.5, 1.5)
"""Intervals are drawn no further than this; values always whole."""
_MARGIN = 0.08
"""Decades of room before the first and after the last mark."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BitsAxis:
    """Bits per token to places on a logarithmic axis, in decades, with a strip of its own for exactly 0.

    The strip ends at place 0, and `gap` behind it the logarithmic axis begins.
    """

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


def bits_axis(arms: Sequence[Arm]) -> BitsAxis:
    """An axis that holds the bits per token of all arms, with their intervals."""
    paid = [arm for arm in arms if 0 < arm["bits_per_token"] < math.inf]
    known = [arm[name] for arm in paid for name in ("bits_low", "bits_per_token", "bits_high")]
    decades = [math.log10(end) for end in known if 0 < end < math.inf] or [-1.0, 0.0]
    start, stop = min(decades) - _MARGIN, max(decades) + _MARGIN
    free = sum(_room(arm) for arm in arms if arm["bits_per_token"] == 0)
    if not free:
        return BitsAxis(strip=0.0, gap=0.0, start=start, stop=stop)
    # As much room for the strip as its marks need beside the others, between a quarter and two thirds of the whole.
    part = min(0.66, max(0.25, free / (free + 2 * len(paid) + 4)))
    return BitsAxis(strip=(stop - start) * part / (1 - part), gap=0.05 * (stop - start), start=start, stop=stop)


def places(arms: Sequence[Arm], axis: BitsAxis) -> list[float]:
    """Arms without bits stand beside each other in the strip, in the order given, the others at their bits."""
    rooms = [_room(arm) if arm["bits_per_token"] == 0 else 0 for arm in arms]
    found, taken = [], 0
    for arm, room in zip(arms, rooms, strict=True):
        part = 0.02 + 0.96 * (taken + room / 2) / max(sum(rooms), 1)
        found.append(axis.strip * (part - 1) if room else axis.place(arm["bits_per_token"]))
        taken += room
    return found


def _room(arm: Arm) -> int:
    """The number of a rung needs room beside its mark."""
    return 2 if arm["kind"] == "rung" else 1


def recovery_key(ladder: pl.DataFrame, leaks: pl.DataFrame) -> Markup:
    """One line for each kind of help, with its rungs and their numbers; then what is hollow."""
    numbers, arms = rung_numbers(ladder), rungs(ladder, "strict").filter(pl.col("kind") == "rung")
    entries: list[tuple[str, Style]] = []
    for family in arms["family"].unique(maintain_order=True):
        named = arms.filter(pl.col("family") == family).select("arm", "label").iter_rows()
        names = joined((markup("<b>{}</b>\u00a0{}", numbers[arm], bare(label)) for arm, label in named), ", ")
        entries.append((markup("<em>{}:</em> {}", family, names), LOOKS.get(family, UNKNOWN)))
    if "control" in ladder["kind"]:
        entries.append(("a control, in the ink of its rung", hollow(palette.MUTED)))
    if not leaks.filter(pl.col("arm").is_in(ladder["arm"].to_list())).is_empty():
        brings = f"what the arm brings on TAUGHT organisms, if over {100 * LEAKY:g} points"
        entries += [(brings, _leak_style(True)), ("the same, if not", _leak_style(False))]
    return key(entries)


def rung_numbers(ladder: pl.DataFrame) -> dict[str, int]:
    """Rung -> its number in the figure, from 1 up the ladder."""
    names = rungs(ladder, "strict").filter(pl.col("kind") == "rung")["arm"]
    return {arm: number for number, arm in enumerate(names, start=1)}


def _leak_style(leaks: bool) -> Style:
    return hollow(palette.TUNED if leaks else palette.MUTED, "diamond-open")


def recovery_scatter(ladder: pl.DataFrame, leaks: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """Strict share of the gain of every rung and control of a `LADDER`; accuracy gained where shares are refused.

    Rungs carry their number of `recovery_key`. A second, hollow mark at the same bits is what `LEAKS` says the rung
    brings on TAUGHT organisms. The models themselves are the lines at none and all of the gain.
    """
    rows, numbers = rungs(ladder, "strict"), rung_numbers(ladder)
    between = rows.filter(pl.col("kind") != "end")
    scale: Scale = "gain" if between["share"].is_nan().all() else "share"
    # From the base up, each rung with its controls behind it.
    climbed = sorted(
        between.filter(pl.col(scale).is_not_nan()).to_dicts(),
        key=lambda arm: (numbers.get(arm["control_of"] or arm["arm"], 0), arm["kind"] == "control"),
    )
    axis, styles = bits_axis(climbed), arm_styles(ladder)
    known = {arm: found for arm in numbers if (found := leak(leaks, arm)) is not None}
    leaked = {arm: found for arm, found in known.items() if not math.isnan(getattr(found, scale).value)}
    whole = 1.0 if scale == "share" else rows.filter(pl.col("kind") == "end")["gain"][1]
    low, high = _reach(climbed, [getattr(found, scale).value for found in leaked.values()], scale)
    figure, words = blank(canvas, height=_HEIGHT), _names(axis, whole, canvas)
    # The base gains nothing, the tuned model `whole`.
    for value, ink in ((0.0, palette.BASE), (whole, palette.TUNED)):
        figure.add_trace(level([-axis.strip, axis.end], [100 * value] * 2, ink))
    for arm, place in zip(climbed, places(climbed, axis), strict=True):
        name = arm["arm"]
        if name in leaked:
            figure.add_traces(_leak_marks(arm, place, scale, leaked[name]))
        figure.add_trace(_mark(arm, place, scale, styles[name], axis))
        if name in numbers:
            top = min(np.fmax(arm[scale], arm[f"{scale}_high"]), high)
            number = str(numbers[name])
            words.append(word(number, place, 100 * top, ink=palette.INK, size=11, yanchor="bottom", yshift=3))
    _set_axes(figure, axis, canvas, scale, (low, high))
    if axis.strip:
        figure.add_vrect(x0=-axis.strip, x1=0, fillcolor=palette.SHADE, line_width=0, layer="below")
    figure.update_layout(annotations=words)
    return figure


def _mark(arm: Arm, place: float, scale: Scale, style: Style, axis: BitsAxis) -> go.Scatter:
    value, thickness = 100 * arm[scale], 1.0 if style.faint else 1.8
    low, high = (100 * end for end in ends(arm, scale))
    # Exactly nothing, and what is undefined, has no interval along the bits.
    free = arm["bits_per_token"] == 0 or math.isnan(arm["bits_low"]) or math.isnan(arm["bits_high"])
    left, right = (place, place) if free else (axis.place(arm["bits_low"]), axis.place(arm["bits_high"]))
    asked = f"{BITS.write(arm['bits_per_token'])} {BITS.span(arm['bits_low'], arm['bits_high'])}".rstrip()
    said = f"{arm['label']}: {_written(scale, arm, scale)}; {asked if arm['bits_per_token'] else '0'} bits a token"
    return marks(
        [place],
        [value],
        style,
        [said],
        size=8 if style.faint else 11,
        error_x=bars([place], [left], [right], style.ink, thickness),
        error_y=bars([value], [low], [high], style.ink, thickness),
    )


def _leak_marks(arm: Arm, place: float, scale: Scale, found: Leak) -> list[go.Scatter]:
    """The leak, tied to its arm."""
    leaked, style = getattr(found, scale), _leak_style(is_leaky(found))
    value, low, high = (100 * end for end in leaked)
    said = f"{arm['label']}, on TAUGHT organisms: {_written(scale, leaked._asdict(), 'value')}"
    bar = bars([value], [low], [high], style.ink, 1.0)
    return [
        level([place, place], [100 * arm[scale], value]),
        marks([place], [value], style, [said], size=9, error_y=bar),
    ]


def _written(scale: Scale, row: Mapping[str, Any], name: str) -> str:
    if scale == "share":
        return WHOLE.said(row, name)
    return f"{POINTS.write(row[name])} points {POINTS.span(*ends(row, name))}".rstrip()


def _reach(arms: Sequence[Arm], leaked: Sequence[float], scale: Scale) -> tuple[float, float]:
    """Ends of the vertical axis, as fractions."""
    values = [*(arm[scale] for arm in arms), *leaked]
    spans = [end for arm in arms for end in ends(arm, scale) if not math.isnan(end)]
    inside = [min(max(end, _REACH[0]), _REACH[1]) for end in spans]
    low, high = min([0.0, *values, *inside]), max([1.0 if scale == "share" else 0.0, *values, *inside])
    room = 0.06 * (high - low)
    return low - room, high + 1.5 * room


def _set_axes(figure: go.Figure, axis: BitsAxis, canvas: Canvas, scale: Scale, reach: tuple[float, float]) -> None:
    wide = canvas.columns > 1
    ticks = list(axis.ticks())
    figure.update_xaxes(
        quiet_axis(f"Bits per token from the tuned model{' at test time' if wide else ''}"),
        range=[-axis.strip, axis.end],
        showgrid=False,
        tickvals=[place for place, _ in ticks],
        ticktext=[label for _, label in ticks],
    )
    figure.update_yaxes(
        quiet_axis("Share of the gain" if scale == "share" else "Accuracy gained, points; a share is refused"),
        range=[100 * end for end in reach],
        ticksuffix="\u202f%" if scale == "share" else "",
        nticks=7,
    )
    figure.update_layout(margin={"l": 66 if wide else 52, "r": 96 if wide else 12, "t": 30, "b": 52})


def _names(axis: BitsAxis, whole: float, canvas: Canvas) -> list[dict[str, object]]:
    """What the two lines and the strip are."""
    if canvas.columns > 1:
        left, base, tuned = 1.0, {"xshift": 6, "yanchor": "middle"}, {"xshift": 6, "yanchor": "middle"}
    else:
        left, base, tuned = 0.0, {"xshift": 3, "yanchor": "top", "yshift": -6}, {"xshift": 3, "yanchor": "bottom"}
    words = [
        word(name, left, 100 * height, size=11, xref="paper", xanchor="left", **placed)
        for name, height, placed in (("base model", 0.0, base), ("tuned model", whole, tuned))
    ]
    if axis.strip:
        above = {"yref": "paper", "yanchor": "bottom", "yshift": 6}
        words.append(word("exactly nothing", -axis.strip / 2, 1.0, size=11, **above))
    return words
