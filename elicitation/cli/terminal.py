"""Terminal: what was typed there, and what is shown there: help, results, and how far a long command is."""

import inspect
import io
import shlex
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column, Table

FOUND_S = 0.1
"""What is reported this soon after a stage began was there already, and says nothing of how fast work goes."""
N_BAR, N_FIXED = 14, 54
"""Columns of a bar, and of all but a stage's name."""


def clock(seconds: float) -> str:
    """`0:07`, `12:30` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def speed(rate: float | None) -> str:
    """A rate in items a second, a minute or an hour, whichever is at least one; nothing for None."""
    if rate is None:
        return ""
    per, unit = next(((rate * s, unit) for s, unit in ((1, "s"), (60, "min")) if rate * s >= 1), (rate * 3600, "h"))
    return f"{per:,.0f}/{unit}" if per >= 10 else f"{per:.1f}/{unit}"


def rate(task: Task) -> float | None:
    """Items a second since work began, without those that were there by then; None before there are any."""
    n_made = task.completed - task.fields["n_found"]
    return n_made / task.elapsed if n_made > 0 and task.elapsed else None


def ended(task: Task) -> str:
    """`traces: base   3200 in 0:12, 267/s`; what was found and not made has no rate."""
    seconds = task.elapsed or 0.0
    told = f"{task.description:<32} {task.completed:>9.0f} in {clock(seconds) if seconds >= 10 else f'{seconds:.1f} s'}"
    return f"{told}, {speed(rate(task))}".removesuffix(", ")


class Pace(ProgressColumn):
    """The rate of a stage that goes on, and the time left at this rate."""

    def render(self, task: Task) -> str:
        """`267/s  0:12 left`; empty before there is a rate."""
        now = rate(task)
        return f"{speed(now):>9}  {clock((task.remaining or 0) / now)} left" if now else ""


class Stages(Progress):
    """A bar for every stage that goes on, and the time in all, so that something moves between stages."""

    began: float = 0.0

    def get_renderables(self) -> Iterator[RenderableType]:
        """The bars, then the time."""
        yield self.make_tasks_table(self.tasks)
        yield f"{clock(time.monotonic() - self.began)} in all"

    def report(self, stage: str, n_done: int, total: int) -> str | None:
        """Takes note; a line about the stage when this ends it."""
        if all(task.description != stage for task in self.tasks):
            self.add_task(stage, total=total, n_found=0, began=self.get_time())
        task = next(task for task in self.tasks if task.description == stage)
        if not task.visible:
            return None
        if self.get_time() - task.fields["began"] < FOUND_S:
            n_found = int(task.completed) + n_done
            self.reset(task.id, completed=n_found, n_found=n_found, began=task.fields["began"])
        else:
            self.advance(task.id, n_done)
        task.visible = task.completed < total
        return None if task.visible else ended(task)


def stages(console: Console) -> Stages:
    """None yet; where the console is no terminal they are counted, and not shown."""
    # What is counted matters more than the whole of a long name.
    name = Column(no_wrap=True, overflow="ellipsis", max_width=max(12, console.width - N_FIXED))
    columns = TextColumn("{task.description}", markup=False, table_column=name), BarColumn(N_BAR), MofNCompleteColumn()
    hidden = not console.is_terminal
    shown = Stages(*columns, Pace(), console=console, transient=True, refresh_per_second=4, disable=hidden)
    shown.began = time.monotonic()
    return shown


class Terminal:
    """Where a command was typed, as `words`, and its results are shown; `anywhere` is the command without its --out."""

    def __init__(self, words: Sequence[str], console: Console | None = None) -> None:
        self.words = [*words]
        self.line = shlex.join(["lab", *words])
        if console is None and isinstance(sys.stdout, io.TextIOWrapper):
            # What a terminal's encoding lacks is shown by its number, instead of ending the command.
            sys.stdout.reconfigure(errors="backslashreplace")
        behind = ("", *words)
        shown = ("OUT" if before == "--out" else word for before, word in zip(behind, words, strict=False))
        self.anywhere = shlex.join(["lab", *("--out=OUT" if word.startswith("--out=") else word for word in shown)])
        # Names of models and files may hold brackets, which are not markup.
        self.console = console or Console(markup=False)

    def say(self, line: str) -> None:
        """One line, however long, so that a path or a command in it can be copied."""
        self.console.print(line, highlight=False, soft_wrap=True)

    def show(self, shown: RenderableType) -> None:
        """A table, or prose that is wrapped."""
        self.console.print(shown, highlight=False)

    def about(self, text: str) -> None:
        """A docstring; an example in it goes on after a backslash, so that it can be copied whole."""
        for paragraph in inspect.cleandoc(text).split("\n\n"):
            self.say("\n".join(_filled(" ".join(paragraph.split()), self.console.width)) + "\n")

    def overview(self, prog: str, text: str, purposes: Mapping[str, str]) -> None:
        """A docstring, and what each verb below `prog` is for: the first paragraph of its docstring."""
        self.about(text)
        self.say(f"usage: {prog} [-h] VERB ...\n")
        verbs = Table.grid(Column(style="bold", no_wrap=True), padding=(0, 2))
        for verb, purpose in purposes.items():
            verbs.add_row(f"• {verb}", " ".join(inspect.cleandoc(purpose).partition("\n\n")[0].split()))
        self.show(Panel(verbs, title="verbs", title_align="left", border_style="dim"))

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None]]:
        """Fed by (stage, items just done, items in all): a line for every stage that ends, and, on a terminal, a bar
        with its rate and the time left for every stage that goes on.
        """
        with stages(self.console) as shown:

            def watch(stage: str, n_done: int, total: int) -> None:
                if (line := shown.report(stage, n_done, total)) is not None:
                    self.say(line)

            yield watch


def _filled(paragraph: str, width: int) -> list[str]:
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    if not paragraph.startswith("Example:") or len(paragraph) <= width:
        return wrapper.wrap(paragraph)
    wrapper.width, wrapper.subsequent_indent = width - 2, "    "
    lines = wrapper.wrap(paragraph)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def numbers(title: str, *headings: str) -> Table:
    """An empty table for a terminal of 80 columns: what stands first is a name, all others are numbers."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD)
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
