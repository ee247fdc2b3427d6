"""Measure how much of a tuned model's gain its base model already had, and write a report.

Example: lab study --pair zero-base zero-rl --task chain --out runs/zero-rl

Everything lands in --out; a study that was stopped goes on when the same command is given again. Of a model that comes
with the package, the task that it was tuned for, and how that is decoded, are used where no others are given.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from elicitation.cli.main import parse
from elicitation.cli.terminal import Terminal
from elicitation.study.config import Study

PAIR_HELP = """The base model and the model tuned from it, or one model that comes with the package, whose parent is \
then the base. Names of models (`lab models list`), directories of transformers checkpoints or LoRA adapters, GGUF \
files, or hub names."""
Pair = Annotated[tuple[str, ...], tyro.conf.arg(metavar="BASE TUNED", help=PAIR_HELP)]


@dataclass(frozen=True, kw_only=True)
class StudyCommand:
    """What `lab study` is given."""

    RESUMES: ClassVar[bool] = True
    pair: Pair
    out: Path
    """Directory of the results."""
    study: Annotated[Study, tyro.conf.arg(name="")] = field(default_factory=lambda: Study(base="", tuned=""))

    def run(self, terminal: Terminal) -> None:
        """Runs the study of the pair."""
        # What was typed is read again over what the pair itself says.
        typed = parse(StudyCommand, terminal.words[1:], prog="lab study", default=replace(self, study=own(self.pair)))
        run_study(typed.study, self.out, terminal)


COMMAND = StudyCommand


def own(names: tuple[str, ...]) -> Study:
    """The study of a pair on the task that its tuned model was tuned for, decoded as it is to be; else on chains."""
    from elicitation.front.opening import named_pair
    from lab.organisms.catalogue import own_spec

    base, tuned = named_pair(names)
    spec = own_spec(tuned)
    return Study(base=base, tuned=tuned, task=spec.task, decoding=spec.decoding)


def run_study(study: Study, out: Path, terminal: Terminal) -> None:
    """Runs a study under a progress bar, then shows its summary and says where the report is."""
    from elicitation.calibration.record import shipped_leaks
    from elicitation.pages.study.ladder import summary
    from elicitation.study.run import run

    with terminal.progress() as watch:
        finished = run(study, out, command=terminal.anywhere, watch=watch, say=terminal.say)
    terminal.show(summary(finished.ledger.ladder, terminal.console.width, shipped_leaks()))
    terminal.show(finished.answer)
    if finished.best_estimate:
        terminal.show(finished.best_estimate)
    if finished.memory:
        terminal.show(finished.memory)
    terminal.say(f"report: {finished.report.resolve()}")
