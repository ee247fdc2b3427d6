"""The picture of the README, from a demo's ladder: python docs/ladder.py runs/demo docs/ladder.png (by chromium)."""

import subprocess
import sys
import tempfile
from pathlib import Path

import plotly.graph_objects as go
import polars as pl

SHOWN = {
    "zero-rl": "<b>the tuned model</b>",
    "+ token takeover, at disagreement": "+ the tuned model's token where the two disagree",
    "+ fitted vector, base's probe": "+ a vector, when a probe on the base says so",
    "+ fitted vector, first token": "+ a vector at the first token",
    "random vectors, first token": "its control: random vectors there",
    "+ CoT-decoding": "+ CoT-decoding",
    "+ majority of 8": "+ majority of 8 samples",
    "+ best prompt": "+ best prompt",
    "zero-base": "<b>the base model</b>",
}
WIDTH, HEIGHT = 900, 380


def figure(run: Path) -> go.Figure:
    """Strict accuracy of the chosen arms, base at the bottom; the gain to be explained is shaded."""
    ladder = pl.read_parquet(run / "tables" / "ladder.parquet").filter(pl.col("measure") == "strict")
    rows = [ladder.filter(pl.col("label") == label).row(-1, named=True) for label in SHOWN]
    colours = ["#d55e00", *["#0072b2"] * 3, "#8a8a8a", *["#0072b2"] * 3, "#222222"]
    percents = [[100 * row[name] for row in rows] for name in ("accuracy", "low", "high")]
    made = go.Figure(
        go.Scatter(
            x=percents[0],
            y=list(SHOWN.values()),
            mode="markers",
            marker={"size": 11, "color": colours},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [high - value for value, high in zip(percents[0], percents[2], strict=True)],
                "arrayminus": [value - low for value, low in zip(percents[0], percents[1], strict=True)],
                "color": "#999999",
                "thickness": 1.5,
            },
        )
    )
    made.add_vrect(x0=percents[0][-1], x1=percents[0][0], fillcolor="#0072b2", opacity=0.07, line_width=0)
    made.update_layout(
        template="plotly_white",
        font={"size": 15, "family": "DejaVu Sans, sans-serif"},
        margin={"l": 10, "r": 20, "t": 10, "b": 50},
        xaxis={
            "range": [0, 103],
            "ticksuffix": " %",
            "title": {"text": "solved by a valid chain at the first try", "font": {"size": 15}},
        },
        yaxis={"autorange": "reversed", "ticksuffix": "  "},
        width=WIDTH,
        height=HEIGHT,
    )
    return made


def main() -> None:
    """Draws the page and lets a browser take its picture."""
    run, picture = map(Path, sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "ladder.html"
        figure(run).write_html(page, include_plotlyjs=True, config={"staticPlot": True})
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
        ]
        size = f"--window-size={WIDTH + 16},{HEIGHT + 16}"
        subprocess.run(["chromium", *flags, size, f"--screenshot={picture.resolve()}", f"file://{page}"], check=True)


if __name__ == "__main__":
    main()
