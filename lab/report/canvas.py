"""Canvas: the room a figure has; every figure exists in a wide and a narrow shape."""

from dataclasses import dataclass

import plotly.graph_objects as go

from lab.report.palette import GRID, INK, MUTED, PAPER

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


@dataclass(frozen=True, kw_only=True, slots=True)
class Canvas:
    """What a figure may assume about its width."""

    label_room: int
    """Pixels left of the plot for row names; 0 puts each name above its row."""
    note_room: int
    """Pixels right of the plot for row notes; 0 appends each note to the name."""
    columns: int
    """Panels side by side."""


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
