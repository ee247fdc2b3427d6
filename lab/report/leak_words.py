"""Leak words: what an arm recovers where nothing can be elicited, as written in tables and sentences."""

import math

from lab.calibration.leak import Leak
from lab.report.numerals import interval, percent, points
from lab.report.record_words import counted

NOT_MEASURED = "not measured"
LEAKY = 0.02
"""An arm that gains more than this accuracy on TAUGHT organisms is said to leak."""


def is_leaky(found: Leak | None) -> bool:
    """Whether the mean gain on TAUGHT organisms exceeds `LEAKY`; what was not measured is not said to leak."""
    return found is not None and found.gain.value > LEAKY


def leak_figures(found: Leak | None) -> tuple[str, str]:
    """(the leak, its interval), plain text: the mean share on TAUGHT, in points of accuracy where none was given."""
    if found is None or math.isnan(found.gain.value):
        return NOT_MEASURED, ""
    if math.isnan(found.share.value):
        return f"{points(found.gain.value)} points", interval(found.gain.low, found.gain.high)
    return percent(found.share.value, 0), interval(found.share.low, found.share.high, 0)


def silent_figures(found: Leak | None) -> str:
    """The largest gain beyond the control where tuning brought none, plain text; empty where it was not measured."""
    if found is None or found.n_silent == 0:
        return ""
    return f"{points(found.beyond.value)} {interval(found.beyond.low, found.beyond.high)}".rstrip()


def leak_sentence(found: Leak | None) -> str:
    """What a reader must know before trusting an arm's share; empty where it does not leak or was not measured."""
    if found is None or not is_leaky(found):
        return ""
    leaked, span = leak_figures(found)
    of = "" if math.isnan(found.share.value) else " of the gain"
    where = f"{counted(found.n_cases, 'organism')}, {found.n_problems} problems in all"
    return (
        f"It leaks: where all of the gain was taught and none could be elicited ({where}), it still brings "
        f"{f'{leaked} {span}'.rstrip()}{of}, so its share here is no proof that the base model had as much."
    )
