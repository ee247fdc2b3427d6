"""Canvas: the room a figure has, and what all figures are drawn with; each exists in a wide and a narrow shape."""

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.subplots import make_subplots

from elicitation.pages.kit.markup import filled, packed, plotly_text
from elicitation.pages.kit.palette import GRID, INK, MUTED, PAPER, Style

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_HEADING = 44
"""Characters of a panel's heading in one of its two lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """What a figure may assume about its width."""

    label_room: int
    """Pixels left of the plot for row names; 0 puts each name above its row."""
    note_room: int
    """Pixels right of the plot for row notes; 0 appends each note to the name."""
    columns: int
    """Panels side by side."""

    def beside(self, note: str) -> str:
        """A note that can be done without where it has no room of its own."""
        return note if self.note_room else ""


WIDE = Canvas(label_room=268, note_room=150, columns=2)
NARROW = Canvas(label_room=0, note_room=0, columns=1)


def blank(canvas: Canvas, height: int) -> go.Figure:
    """An empty figure in house style: no toolbar gestures, so a finger on it scrolls the page."""
    figure = go.Figure()
    figure.update_layout(
        template=go.layout.Template(),
        height=height,
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        font={"family": FONT, "size": 13, "color": INK},
        hoverlabel={"bgcolor": PAPER, "bordercolor": MUTED, "font": {"family": FONT, "size": 13, "color": INK}},
        hovermode="closest",
        dragmode=False,
        showlegend=False,
        margin={"l": 60, "r": 14, "t": 34, "b": 48} if canvas.columns > 1 else {"l": 40, "r": 10, "t": 30, "b": 46},
    )
    return figure


def quiet_axis(title: str) -> dict[str, object]:
    """An axis that stays behind the data."""
    return {
        "title": {"text": title, "font": {"size": 12, "color": MUTED}, "standoff": 8},
        "tickfont": {"size": 12, "color": MUTED},
        "gridcolor": GRID,
        "zeroline": False,
        "linecolor": GRID,
        "fixedrange": True,
        "automargin": False,
    }


def marks(
    xs: Sequence[float], ys: Sequence[float], style: Style, said: Sequence[str], *, size: int, **placed: object
) -> go.Scatter:
    """One mark a value; `said` is shown over each, `placed` is what else plotly is to know, such as error bars."""
    solid = not style.symbol.endswith("-open")
    return go.Scatter(
        x=list(xs),
        y=list(ys),
        mode="markers",
        marker={
            "symbol": style.symbol,
            "size": size,
            "color": style.ink,
            "line": {"color": PAPER if solid else style.ink, "width": 1 if solid else 1.5},
        },
        customdata=[plotly_text(words) for words in said],
        hovertemplate="%{customdata}<extra></extra>",
    ).update(placed)


def bars(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], ink: str, thickness: float
) -> dict[str, object]:
    """Error bars from the lower to the upper ends; an end that is undefined has none."""
    return {
        "type": "data",
        "symmetric": False,
        "array": np.nan_to_num(np.subtract(highs, values)).tolist(),
        "arrayminus": np.nan_to_num(np.subtract(values, lows)).tolist(),
        "color": ink,
        "thickness": thickness,
        "width": 0,
    }


def level(xs: Sequence[float], ys: Sequence[float], ink: str = MUTED, *, width: float = 1.0) -> go.Scatter:
    """A quiet line that marks are compared with."""
    line = {"color": ink, "width": width, "dash": "dot"}
    return go.Scatter(x=list(xs), y=list(ys), mode="lines", line=line, hoverinfo="skip")


def word(text: str, x: float, y: float, *, ink: str = MUTED, size: int = 12, **placed: object) -> dict[str, object]:
    """An annotation; `text` may come from anyone."""
    font = {"size": size, "color": ink}
    return {"text": plotly_text(text), "x": x, "y": y, "showarrow": False, "font": font, **placed}


def panels(
    drawn: Mapping[str, Sequence[go.Scatter]], canvas: Canvas, *, panel: int, foot: int, gaps: tuple[float, float]
) -> go.Figure:
    """Headings and the traces below each, side by side as far as the canvas has room; vertical axes are shared.

    `panel` is the height of one, `foot` is added to that of all; `gaps` are fractions of the figure between columns
    and, divided by the number of rows, between rows.
    """
    columns = min(canvas.columns, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        horizontal_spacing=gaps[0],
        vertical_spacing=gaps[1] / rows,
        figure=blank(canvas, height=panel * rows + foot),
    )
    for index, (heading, traces) in enumerate(drawn.items()):
        at = str(index + 1) if index else ""
        lines = textwrap.wrap(heading, _HEADING, max_lines=2, placeholder=" …")
        corner = {"xref": f"x{at} domain", "xanchor": "left", "yref": f"y{at} domain", "yanchor": "bottom", "yshift": 6}
        text = "<br>".join(map(plotly_text, lines))
        figure.add_annotation(**word("", 0.0, 1.0, size=13, align="left", **corner) | {"text": text})
        for trace in traces:
            figure.add_trace(trace.update(xaxis=f"x{at}", yaxis=f"y{at}"))
    return figure


def plot_block(name: str, draw: Callable[[Canvas], go.Figure], *, says: str, caption: str) -> Markup:
    """A figure in both its shapes, ready for a page, whose script draws the one that fits.

    `says` is read aloud in place of the figure, `caption` after it.
    """
    plain = {shape: json.loads(str(draw(room).to_json(engine="json"))) for shape, room in _SHAPES.items()}
    heights = "".join(f"--{shape}:{int(figure['layout']['height'])}px;" for shape, figure in plain.items())
    data = packed(json.dumps(plain, separators=(",", ":")))
    return filled("kit/plot.html", name=name, says=says, caption=caption, heights=heights, data=data)


_SHAPES = {"wide": WIDE, "narrow": NARROW}


def key(entries: Sequence[tuple[str, Style]]) -> Markup:
    """What each mark or line is: words, or trusted HTML, and how it looks."""
    return filled("kit/key.html", entries=entries)
