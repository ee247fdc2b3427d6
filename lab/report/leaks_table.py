"""Leaks table: what each arm of a ladder brings on organisms where there is nothing to bring out, as HTML."""

import polars as pl

from lab.calibration.leak import Leak, leak
from lab.report.leak_words import LEAKY, is_leaky, leak_figures, silent_figures
from lab.report.markup import escaped
from lab.report.numbers import numbers
from lab.report.numerals import ABSENT, interval, points
from lab.report.sheet import sheet, with_span

_HEADINGS = ("", "Leak: share on TAUGHT", "Gain there, points", "Largest gain over control on ABSENT, points")


def leaks_table(leaks: pl.DataFrame) -> str:
    """Which arms of `LEAKS` leak, in a sentence, and all of them in a folded table, the leakiest first."""
    found = {arm: known for arm in leaks["arm"].unique(maintain_order=True) if (known := leak(leaks, arm)) is not None}
    ranked = sorted(found, key=lambda arm: found[arm].gain.value if found[arm].n_cases else -1.0, reverse=True)
    leaky = [arm for arm in ranked if is_leaky(found[arm])]
    limit = f"{100 * LEAKY:g} points"
    said = f"{len(leaky)} of {len(ranked)} gain more than {limit} there" + (f": {', '.join(leaky)}" if leaky else "")
    rows = [_row(arm, found[arm]) for arm in ranked]
    return f"<p>{escaped(said)}.</p>{numbers('Every kind of help and every control', sheet(_HEADINGS, rows))}"


def _row(arm: str, found: Leak) -> tuple[str, ...]:
    share, ends = leak_figures(found)
    flagged = f'<span class="no">{escaped(share)}</span>' if is_leaky(found) else escaped(share)
    gain = found.gain
    return (
        escaped(arm),
        with_span(flagged, ends),
        with_span(points(gain.value), interval(gain.low, gain.high)) if found.n_cases else ABSENT,
        escaped(silent_figures(found)) or ABSENT,
    )
