"""Tasks: what a file of problems, or another source of them, is read as.

Example: lab task show aime24.parquet
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, ClassVar

import tyro
from rich.text import Text

from elicitation.cli.terminal import Terminal

WIDEST = 400
"""Characters of a question that are shown."""


@dataclass(frozen=True, kw_only=True)
class TaskShow:
    """Show how a file is read: how many problems, from which columns, and the first of them.

    Example: lab task show aime24.parquet --n-shown 2

    `lab study` reads a file so too, with columns found by rule and no bad rows left out.
    """

    RESUMES: ClassVar[bool] = False
    file: Annotated[Path, tyro.conf.Positional]
    """JSON lines, a JSON list, an object of columns, parquet or Arrow, told apart by content."""
    n_shown: int = 3
    """Problems that are shown."""
    question_column: str | None = None
    """Where the question is, such as extra_info.question; found by rule if not given."""
    answer_column: str | None = None
    """Where the answer is."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read, and count them."""

    def run(self, terminal: Terminal) -> None:
        """Reads every row, and shows the first problems as they are asked and judged."""
        from lab.tasks.question_rows import QuestionRows
        from lab.tasks.row_file import rows_of_file

        reading = QuestionRows(
            source=str(self.file),
            stem=self.file.stem,
            question=self.question_column,
            answer=self.answer_column,
            skip_bad_rows=self.skip_bad_rows,
        )
        found = reading.problems(rows_of_file(self.file))
        terminal.show(found.described)
        for problem in islice(found.problems, self.n_shown):
            question = problem.prompt.removesuffix(reading.suffix)
            shown = question if len(question) <= WIDEST else f"{question[:WIDEST]}..."
            terminal.show(Text.assemble("\n", (problem.id, "bold"), f"\n{shown}\nanswer: {problem.answer}"))


COMMAND = {"show": TaskShow}
