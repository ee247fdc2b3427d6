"""Tasks: the benchmarks that have a name, and what a file of problems, or another source of rows, is read as.

Example: lab task show aime24.parquet
"""

from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.table import Column, Table
from rich.text import Text

from elicitation.cli.terminal import Terminal
from lab.tasks.question_rows import BY_RULE, Reading

WIDEST = 400
"""Characters of a question that are shown."""


@dataclass(frozen=True, kw_only=True)
class TaskList:
    """List the benchmarks that have a name: where each is on the hub, and what is read of it.

    Example: lab task list
    """

    RESUMES: ClassVar[bool] = False

    def run(self, terminal: Terminal) -> None:
        """Shows each with what `--task hub:...` would be without the name."""
        from dataclasses import replace

        from lab.tasks.benchmarks import BENCHMARKS

        terminal.show("`--task NAME` takes it from the hub, once; a revision is pinned where one is written.\n")
        shown = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 2))
        for name, task in BENCHMARKS.items():
            question, answer = (
                ", ".join(names) for names in (task.reading.question_column, task.reading.answer_column)
            )
            told = f"{replace(task, short=None).typed}\nquestion from `{question}`, answer from `{answer}`"
            shown.add_row(Text(name, "bold"), Text(told))
        terminal.show(shown)


@dataclass(frozen=True, kw_only=True)
class TaskShow:
    """Show how rows are read: how many problems, from which columns, and the first of them.

    Example: lab task show aime24.parquet --n-shown 2

    `lab study` reads rows so too, and has the same flags.
    """

    RESUMES: ClassVar[bool] = False
    file: Annotated[str, tyro.conf.Positional]
    """JSON lines, a JSON list, an object of columns, parquet, Arrow, CSV or TSV, told apart by content; or a benchmark
    or hub:ORG/NAME, as `lab study --task` takes them."""
    n_shown: int = 3
    """Problems that are shown."""
    reading: Annotated[Reading, tyro.conf.arg(name="")] = field(default=BY_RULE)

    def run(self, terminal: Terminal) -> None:
        """Reads every row, and shows the first problems as they are asked and judged."""
        from lab.records.errors import TaskError
        from lab.tasks.row_task import FileTask, HubTask, judge_of
        from lab.tasks.source import task_source

        # A file is read whatever it is called.
        is_named = not Path(self.file).exists() and (":" in self.file or not Path(self.file).suffix)
        source = (
            task_source(self.file, self.reading) if is_named else FileTask(path=Path(self.file), reading=self.reading)
        )
        if not isinstance(source, FileTask | HubTask):
            raise TaskError(f"{self.file} has no rows to show: want a file, a benchmark or hub:ORG/NAME")
        found = source.found()
        terminal.show(f"{found.described}; judged as {(source.judged_by or judge_of(found.problems)).name}")
        for problem, question in islice(zip(found.problems, found.questions, strict=True), self.n_shown):
            shown = question if len(question) <= WIDEST else f"{question[:WIDEST]}..."
            answer = " or ".join((problem.answer, *problem.aliases))
            terminal.show(Text.assemble("\n", (problem.id, "bold"), f"\n{shown}\nanswer: {answer}"))


COMMAND = {"list": TaskList, "show": TaskShow}
