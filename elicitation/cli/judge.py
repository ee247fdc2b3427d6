"""Judge stored completions again: how each was read, what became of it, and where another reader disagrees.

Example: lab judge answers.jsonl --out disagreements.parquet

FILE is the traces.parquet of a study's arm or of `lab sample`, or rows (JSON lines, JSON, parquet, Arrow) that hold a
completion and a gold answer. Mathematical answers are also read by math-verify alone, in the whole text.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from elicitation.cli.terminal import Terminal, numbers
from lab.records.errors import StorageError

N_SHOWN = 5
"""Disagreements that are shown."""


@dataclass(frozen=True, kw_only=True)
class JudgeCommand:
    """What `lab judge` is given."""

    RESUMES: ClassVar[bool] = False
    file: Annotated[Path, tyro.conf.Positional]
    """The completions."""
    task: str | None = None
    """Whose judge judges them, as `lab study --task` takes it; if not given, that of their study, else mathematics."""
    completion_column: str | None = None
    """Where the completion is, a text, a chat or a list of them; found by rule if not given."""
    gold_column: str | None = None
    """Where the gold answer is, such as reward_model.ground_truth, likewise."""
    opens_thought: bool = False
    """The prompts ended inside a thought, whose opening mark the completions lack."""
    out: Path | None = None
    """Table of the completions on which the readers disagree."""

    def run(self, terminal: Terminal) -> None:
        """Judges and counts."""
        from lab.records.provenance import file_digest, provenance
        from lab.records.tables import write_table
        from lab.sampling.stored import DISAGREEMENTS, rejudged, stored
        from lab.sampling.trace import OUTCOMES

        if self.out is not None and self.out.exists():
            raise StorageError(f"{self.out} exists: delete it or choose another --out")
        columns = self.completion_column, self.gold_column
        found = stored(self.file, self.task, columns, opens_thought=self.opens_thought)
        n = found.traces.height
        terminal.say(f"{n} completions: {found.described}")
        with terminal.progress() as watch:
            watch("judging", 0, n)
            verdicts, differing = rejudged(found, lambda n_done: watch("judging", n_done, n))
        counts = numbers("What became of them", "outcome", "completions", "share")
        for outcome in OUTCOMES:
            of_it = verdicts.filter(outcome=outcome)
            counts.add_row(outcome, str(of_it.height), f"{of_it.height / n:.1%}")
            for rule, count in of_it["read_by"].drop_nulls().value_counts(sort=True, name="n").iter_rows():
                counts.add_row(f"  read by {rule}", str(count))
        terminal.show(counts)
        strict, answer = (verdicts[name].cast(float).mean() for name in ("strict", "answer_correct"))
        terminal.say(f"accuracy: strict {strict:.3f}, answer {answer:.3f}")
        if found.judge.name != "math":
            terminal.say(f"judged as {found.judge.name}, which math-verify does not read")
            return
        terminal.say(f"math-verify alone disagrees on {differing.height}")
        for row in differing.head(N_SHOWN).iter_rows(named=True):
            place = f"{row['problem_id']}, sample {row['sample_index']}, gold {row['gold']!r}"
            theirs = f"math-verify {row['theirs']!r}, {'right' if row['theirs_right'] else 'not right'}"
            terminal.say(f"  {place}: ours {row['ours']!r} by {row['read_by']}, {row['outcome']}; {theirs}")
        if self.out is not None:
            made_from = {"file": file_digest(self.file)}
            made_by = provenance("judge", {"task": self.task}, made_from, device="cpu", dtype="none", seed=0)
            write_table(self.out, differing, DISAGREEMENTS, made_by)
            terminal.say(f"disagreements: {self.out}")


COMMAND = JudgeCommand
