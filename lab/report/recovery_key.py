"""Recovery key: what the marks and numbers of the recovery scatter stand for, as HTML."""

import polars as pl

from lab.report.leak_words import LEAKY
from lab.report.markup import escaped
from lab.report.palette import LOOKS, MUTED, TUNED, ArmStyle
from lab.report.plot_block import key_item
from lab.report.rungs import rungs


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
