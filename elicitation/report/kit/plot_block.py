"""Plot block: a figure in both its shapes, ready for a page; the page's script draws the one that fits."""

import json
from collections.abc import Callable, Mapping

import plotly.graph_objects as go

from elicitation.report.kit.canvas import NARROW, WIDE, Canvas
from elicitation.report.kit.markup import escaped, packed
from elicitation.report.kit.palette import ArmStyle


def plot_block(name: str, draw: Callable[[Canvas], go.Figure], *, says: str, caption: str) -> str:
    """`says` is read aloud in place of the figure; `caption` is trusted HTML, read after it."""
    shapes = {"wide": draw(WIDE), "narrow": draw(NARROW)}
    plain = {shape: json.loads(str(figure.to_json(engine="json"))) for shape, figure in shapes.items()}
    heights = "".join(f"--{shape}:{int(figure['layout']['height'])}px;" for shape, figure in plain.items())
    return (
        f'<figure><div class="plot" id="{name}" role="img" aria-label="{escaped(says)}" '
        f'aria-describedby="{name}-caption" style="{heights}"></div>'
        f'<script type="text/plain" id="{name}-data">{packed(json.dumps(plain, separators=(",", ":")))}</script>'
        f'<figcaption id="{name}-caption">{caption}</figcaption></figure>'
    )


def arm_key(labels: Mapping[str, str], styles: Mapping[str, ArmStyle]) -> str:
    """What each line is, as HTML: `labels` maps arm to human words."""
    return (
        '<ul class="key">' + "".join(key_item(escaped(label), styles[arm]) for arm, label in labels.items()) + "</ul>"
    )


def key_item(words: str, style: ArmStyle) -> str:
    """One line of a key; `words` are trusted HTML."""
    dashes = {"solid": "", "dot": ' stroke-dasharray="2 3"', "dash": ' stroke-dasharray="6 4"'}[style.dash]
    width = 1.5 if style.faint else 2.5
    return (
        f'<li data-ink="{style.ink}" style="color:{style.ink}"><svg width="30" height="14" aria-hidden="true">'
        f'<path d="M1 7H29" stroke="currentColor" stroke-width="{width}"{dashes}/>{_symbol(style.symbol)}</svg>'
        f"<span>{words}</span></li>"
    )


def _symbol(symbol: str) -> str:
    solid = 'fill="currentColor"'
    points = {
        "diamond": "15,1.5 20.5,7 15,12.5 9.5,7",
        "triangle-up": "15,1.5 20.5,11.5 9.5,11.5",
        "triangle-down": "15,12.5 20.5,2.5 9.5,2.5",
        "pentagon": "15,1.5 20.5,5.5 18.4,12 11.6,12 9.5,5.5",
        "hexagon": "15,1 20.2,4 20.2,10 15,13 9.8,10 9.8,4",
        "star": "15,0.5 16.8,4.8 21.5,5 17.9,8 19.1,12.7 15,10 10.9,12.7 12.1,8 8.5,5 13.2,4.8",
        "cross": "13,1.5 17,1.5 17,5 20.5,5 20.5,9 17,9 17,12.5 13,12.5 13,9 9.5,9 9.5,5 13,5",
        "x": "11.5,1.5 15,5 18.5,1.5 20.5,3.5 17,7 20.5,10.5 18.5,12.5 15,9 11.5,12.5 9.5,10.5 13,7 9.5,3.5",
        "square": "10.5,2.5 19.5,2.5 19.5,11.5 10.5,11.5",
    }
    if symbol in points:
        return f'<polygon points="{points[symbol]}" {solid}/>'
    hollow = 'fill="var(--paper)" stroke="currentColor" stroke-width="1.5"'
    if symbol == "circle-open":
        return f'<circle cx="15" cy="7" r="3.5" {hollow}/>'
    if symbol == "diamond-open":
        return f'<polygon points="15,2 20,7 15,12 10,7" {hollow}/>'
    return f'<circle cx="15" cy="7" r="4.5" {solid}/>'
