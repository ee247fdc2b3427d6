"""Recovery scatter: what every arm recovers against the bits it takes from the tuned model at test time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import plotly.graph_objects as go
import polars as pl

from elicitation.calibration.leak import Leak, Mean, leak
from elicitation.report.kit.canvas import WIDE, Canvas, blank, quiet_axis
from elicitation.report.kit.markup import escaped, plotly_text
from elicitation.report.kit.palette import BASE, GAIN, INK, LOOKS, MUTED, PAPER, TUNED, ArmStyle, arm_styles
from elicitation.report.kit.plot_block import key_item
from elicitation.report.study.bits_axis import BitsAxis, bits_axis, places
from elicitation.report.study.record_words import LEAKY, is_leaky, rungs
from lab.records.numerals import bits, interval, percent, points, span


def recovery_key(ladder: pl.DataFrame, leaks: pl.DataFrame) -> str:
    """One line for each kind of help, with its rungs and their numbers; then what is hollow."""
    numbers, arms = rung_numbers(ladder), rungs(ladder, "strict").filter(pl.col("kind") == "rung")
    items = []
    for family in arms["family"].unique(maintain_order=True):
        ink, symbol = LOOKS.get(family, (MUTED, "circle"))
        names = ", ".join(
            f"<b>{numbers[arm]}</b>\u00a0{escaped(label.removeprefix('+').strip())}"
            for arm, label in arms.filter(pl.col("family") == family).select("arm", "label").iter_rows()
        )
        look = ArmStyle(ink=ink, symbol=symbol, dash="solid", faint=False)
        items.append(key_item(f"<em>{escaped(family)}:</em> {names}", look))
    if "control" in ladder["kind"]:
        items.append(key_item("a control, in the ink of its rung", _hollow(MUTED, "circle-open")))
    if not leaks.filter(pl.col("arm").is_in(ladder["arm"].to_list())).is_empty():
        limit = f"{100 * LEAKY:g} points"
        items.append(key_item(f"what the arm brings on TAUGHT organisms, if over {limit}", _hollow(TUNED)))
        items.append(key_item("the same, if not", _hollow(MUTED)))
    return f'<ul class="key">{"".join(items)}</ul>'


def rung_numbers(ladder: pl.DataFrame) -> dict[str, int]:
    """Rung -> its number in the figure, from 1 up the ladder."""
    names = rungs(ladder, "strict").filter(pl.col("kind") == "rung")["arm"]
    return {arm: number for number, arm in enumerate(names, start=1)}


def _hollow(ink: str, symbol: str = "diamond-open") -> ArmStyle:
    return ArmStyle(ink=ink, symbol=symbol, dash="dot", faint=True)


Scale = Literal["share", "gain"]
"""Shares of the gain, or points of accuracy where shares are refused."""

_HEIGHT = 480
_REACH = (-0.5, 1.5)
"""Intervals are drawn no further than this; values always whole."""


def recovery_scatter(ladder: pl.DataFrame, leaks: pl.DataFrame, canvas: Canvas = WIDE) -> go.Figure:
    """Strict share of the gain of every rung and control of a `LADDER`; accuracy gained where shares are refused.

    Rungs carry their number of `recovery_key`. A second, hollow mark at the same bits is what `LEAKS` says the rung
    brings on TAUGHT organisms. The models themselves are the lines at none and all of the gain.
    """
    scale: Scale = "gain" if shares_refused(ladder) else "share"
    arms = [arm for arm in _climbed(ladder) if not math.isnan(arm[scale])]
    axis, styles, numbers = bits_axis(arms), arm_styles(ladder), rung_numbers(ladder)
    leaked = {arm: found for arm in numbers if (found := _leak(leaks, arm, scale)) is not None}
    whole = 1.0 if scale == "share" else rungs(ladder, "strict").filter(pl.col("kind") == "end")["gain"][1]
    low, high = _reach(arms, [_on(found, scale).value for found in leaked.values()], scale)
    figure, words = blank(canvas, height=_HEIGHT), _names(axis, whole, canvas)
    figure.add_traces(_levels(axis, whole))
    for arm, place in zip(arms, places(arms, axis), strict=True):
        if arm["arm"] in leaked:
            figure.add_traces(_leak_marks(arm, place, scale, leaked[arm["arm"]]))
        figure.add_trace(_mark(arm, place, scale, styles[arm["arm"]], axis))
        if arm["arm"] in numbers:
            top = min(max(arm[scale], _known(arm[f"{scale}_high"], arm[scale])), high)
            words.append(_word(str(numbers[arm["arm"]]), place, 100 * top, INK, yanchor="bottom", yshift=3))
    _set_axes(figure, axis, canvas, scale, (low, high))
    if axis.strip:
        figure.add_vrect(x0=-axis.strip, x1=0, fillcolor=GAIN, line_width=0, layer="below")
    figure.update_layout(annotations=words)
    return figure


def shares_refused(ladder: pl.DataFrame) -> bool:
    """Whether no arm of the ladder has a strict share, so that the scatter is drawn in points."""
    shares = ladder.filter(pl.col("measure") == "strict", pl.col("kind") != "end")["share"]
    return bool(shares.is_nan().all())


def _climbed(ladder: pl.DataFrame) -> list[dict[str, Any]]:
    """Rungs from the base up, each with its controls behind it."""
    between = rungs(ladder, "strict").filter(pl.col("kind") != "end").to_dicts()
    order = rung_numbers(ladder)
    return sorted(between, key=lambda arm: (order.get(arm["control_of"] or arm["arm"], 0), arm["kind"] == "control"))


def _mark(arm: Mapping[str, Any], place: float, scale: Scale, style: ArmStyle, axis: BitsAxis) -> go.Scatter:
    left, right = _sides(arm, place, axis)
    bar = {"type": "data", "symmetric": False, "color": style.ink, "width": 0, "thickness": 1 if style.faint else 1.8}
    return go.Scatter(
        x=[place],
        y=[100 * arm[scale]],
        mode="markers",
        error_x=bar | {"array": [right - place], "arrayminus": [place - left]},
        error_y=bar | _ends(arm[scale], arm[f"{scale}_low"], arm[f"{scale}_high"]),
        marker={
            "symbol": style.symbol,
            "size": 8 if style.faint else 11,
            "color": style.ink,
            "line": {"color": style.ink if style.faint else PAPER, "width": 1.5 if style.faint else 1},
        },
        customdata=[_said(arm, scale)],
        hovertemplate="%{customdata}<extra></extra>",
    )


def _sides(arm: Mapping[str, Any], place: float, axis: BitsAxis) -> tuple[float, float]:
    """Both ends of the interval of the bits; exactly nothing, and what is undefined, has none to draw."""
    if arm["bits_per_token"] == 0 or math.isnan(arm["bits_low"]) or math.isnan(arm["bits_high"]):
        return place, place
    return axis.place(arm["bits_low"]), axis.place(arm["bits_high"])


def _leak(leaks: pl.DataFrame, arm: str, scale: Scale) -> Leak | None:
    """None where it was not measured in the figure's unit."""
    found = leak(leaks, arm)
    return None if found is None or math.isnan(_on(found, scale).value) else found


def _on(found: Leak, scale: Scale) -> Mean:
    """The mean leak in the figure's unit."""
    return found.share if scale == "share" else found.gain


def _leak_marks(arm: Mapping[str, Any], place: float, scale: Scale, found: Leak) -> list[go.Scatter]:
    """The leak, tied to its arm."""
    leaked, ink = _on(found, scale), TUNED if is_leaky(found) else MUTED
    said = _written(scale, leaked.value, leaked.low, leaked.high)
    tie = {"color": MUTED, "width": 1, "dash": "dot"}
    ends = [100 * arm[scale], 100 * leaked.value]
    return [
        go.Scatter(x=[place, place], y=ends, mode="lines", line=tie, hoverinfo="skip"),
        go.Scatter(
            x=[place],
            y=[100 * leaked.value],
            mode="markers",
            error_y={"type": "data", "symmetric": False, "color": ink, "width": 0, "thickness": 1}
            | _ends(leaked.value, leaked.low, leaked.high),
            marker={"symbol": "diamond-open", "size": 9, "color": ink, "line": {"color": ink, "width": 1.6}},
            customdata=[plotly_text(f"{arm['label']}, on TAUGHT organisms: {said}")],
            hovertemplate="%{customdata}<extra></extra>",
        ),
    ]


def _ends(value: float, low: float, high: float) -> dict[str, object]:
    """An undefined interval has no arms."""
    return {"array": [100 * (_known(high, value) - value)], "arrayminus": [100 * (value - _known(low, value))]}


def _known(number: float, otherwise: float) -> float:
    return otherwise if math.isnan(number) else number


def _said(arm: Mapping[str, Any], scale: Scale) -> str:
    written = _written(scale, arm[scale], arm[f"{scale}_low"], arm[f"{scale}_high"])
    asked = f"{bits(arm['bits_per_token'])} {span(arm['bits_low'], arm['bits_high'], bits)}".rstrip()
    return plotly_text(f"{arm['label']}: {written}; {asked if arm['bits_per_token'] else '0'} bits a token")


def _written(scale: Scale, value: float, low: float, high: float) -> str:
    if scale == "share":
        return f"{percent(value, 0)} {interval(low, high, 0)}".rstrip()
    return f"{points(value)} points {interval(low, high)}".rstrip()


def _reach(arms: Sequence[Mapping[str, Any]], leaked: Sequence[float], scale: Scale) -> tuple[float, float]:
    """Ends of the vertical axis, as fractions."""
    values = [*(arm[scale] for arm in arms), *leaked]
    ends = [_known(arm[f"{scale}_{end}"], arm[scale]) for arm in arms for end in ("low", "high")]
    inside = [min(max(end, _REACH[0]), _REACH[1]) for end in ends]
    low, high = min([0.0, *values, *inside]), max([1.0 if scale == "share" else 0.0, *values, *inside])
    room = 0.06 * (high - low)
    return low - room, high + 1.5 * room


def _set_axes(figure: go.Figure, axis: BitsAxis, canvas: Canvas, scale: Scale, reach: tuple[float, float]) -> None:
    wide = canvas.columns > 1
    ticks = list(axis.ticks())
    bits_title = "Bits per token from the tuned model at test time" if wide else "Bits per token from the tuned model"
    figure.update_xaxes(
        quiet_axis(bits_title),
        range=[-axis.strip, axis.end],
        showgrid=False,
        tickvals=[place for place, _ in ticks],
        ticktext=[label for _, label in ticks],
    )
    title = "Share of the gain" if scale == "share" else "Accuracy gained, points; a share is refused"
    figure.update_yaxes(
        quiet_axis(title),
        range=[100 * end for end in reach],
        ticksuffix="\u202f%" if scale == "share" else "",
        nticks=7,
    )
    figure.update_layout(margin={"l": 66 if wide else 52, "r": 96 if wide else 12, "t": 30, "b": 52})


def _levels(axis: BitsAxis, whole: float) -> list[go.Scatter]:
    """Lines at the base, which gains nothing, and at the tuned model, which gains `whole`."""
    return [
        go.Scatter(
            x=[-axis.strip, axis.end],
            y=[100 * value] * 2,
            mode="lines",
            line={"color": ink, "width": 1, "dash": "dot"},
            hoverinfo="skip",
        )
        for value, ink in ((0.0, BASE), (whole, TUNED))
    ]


def _names(axis: BitsAxis, whole: float, canvas: Canvas) -> list[dict[str, object]]:
    """What the two lines and the strip are."""
    base, tuned = (_word(name, 1.0, 100 * at, MUTED) for name, at in (("base model", 0.0), ("tuned model", whole)))
    if canvas.columns > 1:
        beside = {"xref": "paper", "xanchor": "left", "xshift": 6, "yanchor": "middle"}
        words = [base | beside, tuned | beside]
    else:
        inside = {"x": 0.0, "xref": "paper", "xanchor": "left", "xshift": 3}
        words = [base | inside | {"yanchor": "top", "yshift": -6}, tuned | inside | {"yanchor": "bottom"}]
    if axis.strip:
        above = {"yref": "paper", "yanchor": "bottom", "yshift": 6}
        words.append(_word("exactly nothing", -axis.strip / 2, 1.0, MUTED) | above)
    return words


def _word(text: str, x: float, y: float, ink: str, **placed: object) -> dict[str, object]:
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": {"size": 11, "color": ink}, **placed}
