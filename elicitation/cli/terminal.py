"""Terminal: what was typed there, and what is shown there: help, results, and how far a long command is."""

import inspect
import shlex
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table

FOUND_S = 0.1
"""What is reported this soon after a stage began was there already, and says nothing of how fast work goes."""
N_BAR, N_FIXED = 14, 54
"""Columns of a bar, and of all but a stage's name."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a stage is. Times are seconds of a clock that never goes back."""

    total: int
    began: float
    n_done: int = 0
    since: float = 0.0
    """When the work that is timed began."""
    n_found: int = 0
    """Items that were there by then."""
    last: float = 0.0

    @classmethod
    def start(cls, total: int, now: float) -> "Pace":
        """A stage of `total` items that begins."""
        return cls(total, now, since=now, last=now)

    def after(self, n_more: int, now: float) -> "Pace":
        """The same after `n_more` items more."""
        n_done = self.n_done + n_more
        if now - self.began < FOUND_S:
            return replace(self, n_done=n_done, since=now, n_found=n_done, last=now)
        return replace(self, n_done=n_done, last=now)

    @property
    def done(self) -> bool:
        """Whether nothing is left."""
        return self.n_done >= self.total

    @property
    def rate(self) -> float | None:
        """Items a second, since work began; None before there is any."""
        n_made, seconds = self.n_done - self.n_found, self.last - self.since
        return n_made / seconds if n_made > 0 and seconds > 0 else None

    def left(self, now: float) -> float | None:
        """Seconds until the end at this rate, of which those since the last report have passed."""
        return None if self.rate is None else max(0.0, (self.total - self.n_done) / self.rate - (now - self.last))


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


@dataclass(slots=True)
class Stages:
    """The stages of one command: those that are done, and a bar for each of the others."""

    paces: dict[str, Pace] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def report(self, stage: str, n_done: int, total: int) -> str | None:
        """Takes note; a line about the stage when this ends it."""
        now = time.monotonic()
        before = self.paces.get(stage, Pace.start(total, now))
        if stage in self.paces and before.done:
            return None
        after = self.paces[stage] = before.after(n_done, now)
        return ended(stage, after) if after.done else None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """Bars of the stages that are not done, and the time in all, so that something moves between stages."""
        now = time.monotonic()
        shown = Table.grid(
            # What is counted matters more than the whole of a long name.
            Column(no_wrap=True, overflow="ellipsis", max_width=max(12, options.max_width - N_FIXED)),
            Column(width=N_BAR),
            *(Column(justify="right", no_wrap=True) for _ in range(3)),
            padding=(0, 1),
        )
        for stage, pace in self.paces.items():
            if not pace.done:
                left = pace.left(now)
                bar = ProgressBar(total=pace.total, completed=pace.n_done, width=N_BAR)
                told = "" if left is None else f"{clock(left)} left"
                shown.add_row(stage, bar, f"{pace.n_done}/{pace.total}", speed(pace.rate), told)
        shown.add_row(f"{clock(now - self.began)} in all")
        yield shown


def ended(stage: str, pace: Pace) -> str:
    """`traces: base   3200 in 0:12, 267/s`; what was found and not made has no rate."""
    seconds = pace.last - pace.began
    told = f"{stage:<32} {pace.n_done:>9} in {clock(seconds) if seconds >= 10 else f'{seconds:.1f} s'}"
    return f"{told}, {speed(pace.rate)}" if pace.rate is not None else told


class Terminal:
    """Where a command was typed, as `words`, and where what comes of it is shown."""

    def __init__(self, words: Sequence[str], console: Console | None = None) -> None:
        self.words = [*words]
        self.line = shlex.join(["lab", *words])
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
        stages = Stages()

        def watch(stage: str, n_done: int, total: int) -> None:
            if (line := stages.report(stage, n_done, total)) is not None:
                self.say(line)

        if not self.console.is_terminal:
            yield watch
            return
        with Live(get_renderable=lambda: stages, console=self.console, transient=True, refresh_per_second=4):
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
