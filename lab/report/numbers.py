"""numbers: a table folded away under a figure that shows the same; a printed page shows it open."""


def numbers(summary: str, table: str, *, place: str = "") -> str:
    """`summary` and `table` are trusted HTML; links lead to `place`, if one is given, and unfold it."""
    named = f' id="{place}"' if place else ""
    return f'<details class="numbers"{named}><summary>{summary}</summary>{table}</details>'
