"""open_sides: the problems that a study holds out, and those that it fits on, of one task or of two."""

from dataclasses import replace
from typing import NamedTuple

from lab.records.errors import TaskError
from lab.tasks.question_rows import BY_RULE, Reading
from lab.tasks.row_task import FileTask, HubTask
from lab.tasks.source import AtMost, Task, TaskSource, open_task

N_PROBLEMS = 200
"""Problems of a side where no number is asked for."""
N_WHOLE = 500
"""Held-out ones where all rows of a task may be: as many as MATH-500 has."""


class Sides(NamedTuple):
    """Two tasks that share no question, and how they came to be."""

    task: Task
    """Held out."""
    fit_task: Task
    told: tuple[str, ...]
    """Of rows, in a line each, how they were read and parted."""


def open_sides(
    source: TaskSource, fit_source: TaskSource | None, n_problems: int | None, n_fit_problems: int | None, *, seed: int
) -> Sides:
    """Both sides of `source`, which is split by question; or `source` held out, and `fit_source` to fit on.

    Of two, all rows of the first may be held out, and what both ask is taken from the second. Without a number there
    are as many problems as `N_PROBLEMS` or `N_WHOLE`, or all there are. Raises TaskError as `open_task` does.
    """
    is_whole = fit_source is not None and isinstance(source, FileTask | HubTask)
    n_held_out = AtMost(N_WHOLE if is_whole else N_PROBLEMS) if n_problems is None else n_problems
    n_fit = AtMost(N_PROBLEMS) if n_fit_problems is None else n_fit_problems
    if fit_source is None:
        task = open_task(source, n_problems=n_held_out, seed=seed)
        fit_task = open_task(source, n_problems=n_fit, seed=seed, held_out=False)
    else:
        task = open_task(_whole(source), n_problems=n_held_out, seed=seed)
        asked = () if task.found is None else task.found.questions
        fit_task = open_task(_whole(fit_source), n_problems=n_fit, seed=seed, held_out=False, but=asked)
        # Two files of one name may count their rows alike.
        taken = {problem.id for problem in task.problems}
        named = (replace(one, id=f"fit:{one.id}") if one.id in taken else one for one in fit_task.problems)
        fit_task = replace(fit_task, problems=tuple(named))
    return Sides(task, fit_task, tuple(_told(task, fit_task, has_fit_source=fit_source is not None)))


def require_rows(reading: Reading, *tasks: Task) -> None:
    """TaskError where `reading` says how rows are read, and none of `tasks` has any."""
    if reading != BY_RULE and all(task.found is None for task in tasks):
        raise TaskError(
            "--question-column, --answer-column, --skip-bad-rows, --suffix and --run-code say how rows are read, and "
            f"{tasks[0].name} has none: leave them out, or name a file, a data set or a benchmark"
        )


def _whole(source: TaskSource) -> TaskSource:
    return replace(source, whole=True) if isinstance(source, FileTask | HubTask) else source


def _told(task: Task, fit_task: Task, *, has_fit_source: bool) -> list[str]:
    read = [f"{each.name}: {each.found.described}" for each in (task, fit_task) if each.found is not None]
    n, n_fit = len(task.problems), len(fit_task.problems)
    if task.found is None:
        return read
    n_all = len(task.found.problems)
    if has_fit_source:
        return [*read, f"{n} of {n_all} problems are held out, {n_fit} of {fit_task.name} fit vectors"]
    return [read[0], f"no --fit-task: {n} of {n_all} problems are held out, {n_fit} fit vectors"]
