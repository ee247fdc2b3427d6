"""Check a pair in seconds, before any weights are loaded: what matches, what differs, how either model is asked, what a
study would take, and which of its arms will run.

Example: lab check-pair zero-base zero-rl --task chain

The exit code is 2 where something is refused; all refusals are listed.
"""

import sys
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import tyro
from rich.table import Column, Table
from rich.text import Text

from elicitation.cli.terminal import Terminal
from elicitation.study.config import Study
from lab.models.pair_check import Fact, PairCheck, Verdict
from lab.sampling.trace import Decoding

FLAGS = {
    Study: (
        *(
            "fit_task",
            "reading",
            "n_problems",
            "n_fit_problems",
            "n_samples",
            "n_curve_samples",
            "decoding",
            "seed",
            "batch_size",
        ),
        *("device", "dtype"),
    ),
    Decoding: ("max_new_tokens",),
}
STYLES: dict[Verdict, str] = {"refused": "bold red", "note": "yellow", "differs": "cyan", "ok": "green"}
"""In the order in which rows are shown: what is wrong comes first."""


@dataclass(frozen=True, kw_only=True)
class CheckPairCommand:
    """What `lab check-pair` is given; directories may lack weights, and of hub names only small files are fetched."""

    RESUMES: ClassVar[bool] = False
    base: Annotated[str, tyro.conf.Positional]
    """The base model, as in `lab study`."""
    tuned: Annotated[str, tyro.conf.Positional]
    """The model tuned from it."""
    task: str | None = None
    """As in `lab study`; its problems are asked instead of one example."""
    study: Annotated[Study, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Study(base="", tuned=""), metadata={"flag": "", "flags": FLAGS}
    )

    def run(self, terminal: Terminal) -> None:
        """Shows every row, the refused ones first."""
        from elicitation.study.pair_table import checked_pair

        found = checked_pair(replace(self.study, base=self.base, tuned=self.tuned), self.task)
        show(found, terminal)
        if found.refusals:
            sys.exit(2)


COMMAND = CheckPairCommand


def show(found: PairCheck, terminal: Terminal) -> None:
    """The rows by verdict, and in a sentence whether a study can begin."""
    names, *facts = found.facts
    terminal.show(line(Text(""), Text("what", "bold"), Text(names.base, "bold"), Text(names.tuned, "bold")))
    for verdict, style in STYLES.items():
        for fact in facts:
            if fact.verdict == verdict:
                show_fact(fact, style, terminal)
    n_refused = len(found.refusals)
    refused = f"no study of this pair can begin: {n_refused} refused, see above"
    absent = any(fact.fact == "weights" and fact.verdict == "note" for fact in facts)
    begin = f"a study of this pair can begin{', once its weights are here' if absent else ''}"
    terminal.say(f"\n{refused if n_refused else begin}")


def show_fact(fact: Fact, style: str, terminal: Terminal) -> None:
    """One row and, below it, what follows; a cell for both models where they are alike."""
    cells = [Text(fact.base), *([] if fact.tuned == fact.base else [Text(fact.tuned)])]
    terminal.show(line(Text(fact.verdict, style), Text(fact.fact), *cells))
    if fact.advice:
        terminal.show(line(Text(""), Text(""), Text(fact.advice, "dim" if fact.verdict == "ok" else "")))


def line(*cells: Text) -> Table:
    """Cells that stand in the columns of all other lines; the last of too few takes what is left."""
    widths = Column(width=8), Column(width=24)
    shown = Table.grid(*widths, *(Column(ratio=1, overflow="fold") for _ in cells[2:]), padding=(0, 1), expand=True)
    shown.add_row(*cells)
    return shown
