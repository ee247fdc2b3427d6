"""Fit steering vectors in several ways, and judge each beside its controls on held-out problems.

Example: lab vectors --pair zero-base zero-rl --task chain --out runs/vectors

Vectors, tables and vectors.html land in --out; a run that was stopped goes on when the same command is given again.
"""

from dataclasses import dataclass, field, replace
from math import isnan
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.table import Table

from elicitation.cli.study import Pair
from elicitation.cli.terminal import Terminal, numbers
from elicitation.comparison.config import Comparison, compared
from elicitation.pages.kit.numerals import ABSENT, interval, percent, points
from elicitation.pages.vectors.tables import VectorTables


@dataclass(frozen=True, kw_only=True)
class VectorsCommand:
    """What `lab vectors` is given."""

    RESUMES: ClassVar[bool] = True
    pair: Pair
    out: Path
    """Directory of the results."""
    comparison: Annotated[Comparison, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Comparison(study=compared(base="", tuned=""))
    )

    def run(self, terminal: Terminal) -> None:
        """Compares the fits under a progress bar, then shows their effects and says where they are."""
        from elicitation.comparison.run import compare
        from elicitation.front.opening import named_pair

        base, tuned = named_pair(self.pair)
        sae = None if self.comparison.sae is None else str(Path(self.comparison.sae).resolve())
        comparison = replace(self.comparison, study=replace(self.comparison.study, base=base, tuned=tuned), sae=sae)
        with terminal.progress() as watch:
            found = compare(comparison, self.out, command=terminal.anywhere, watch=watch)
        terminal.show(effects_shown(found.ledger))
        terminal.show(found.answer)
        terminal.say(f"vectors: {found.vectors.resolve()}")
        terminal.say(f"page: {found.page.resolve()}")


COMMAND = VectorsCommand


def effects_shown(ledger: VectorTables) -> Table:
    """Strict accuracy of every fit at either decoding."""
    table = numbers("Strict accuracy, with 95 % intervals", "fit", "strict", "share", "beyond its best control")
    for row in ledger.main("strict"):
        is_model = row["fit"] in ("base", "tuned")
        greedy = ", greedy" if row["decoding"] == "greedy" else ""
        share = ABSENT if isnan(row["share"]) else f"{percent(row['share'], 0)} "
        beyond = "" if isnan(row["beyond"]) else f"{points(row['beyond'])} "
        table.add_row(
            f"{row['label'] if is_model else row['fit']}{greedy}",
            percent(row["value"]),
            "" if is_model else f"{share}{interval(row['share_low'], row['share_high'], 0)}",
            f"{beyond}{interval(row['beyond_low'], row['beyond_high'])}",
        )
    return table
