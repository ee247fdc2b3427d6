"""progress: what a long command is at, how fast it goes and how long it will take."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from rich.console import Console, ConsoleOptions, RenderableType
from rich.live import Live
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


@contextmanager
def progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Fed by (stage, items just done, items in all): a line for every stage that ends, and, on a terminal, a bar with
    its rate and the time left for every stage that goes on.
    """
    stages = Stages()

    def watch(stage: str, n_done: int, total: int) -> None:
        if (line := stages.report(stage, n_done, total)) is not None:
            console.print(line, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield watch
        return
    with Live(get_renderable=lambda: stages, console=console, transient=True, refresh_per_second=4):
        yield watch
