"""error_bars: intervals of a table as plotly's error bars."""

import polars as pl


def error_bars(table: pl.DataFrame, value: str = "value") -> dict[str, object]:
    """`error_y` or `error_x` of the column `value`, whose intervals are the columns `low` and `high`."""
    return {
        "symmetric": False,
        "array": (table["high"] - table[value]).to_list(),
        "arrayminus": (table[value] - table["low"]).to_list(),
    }
