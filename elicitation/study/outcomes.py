"""Outcomes: what became of the completions of every arm, as a table of the report."""

from collections.abc import Iterable, Sequence
from math import nan

import numpy as np
import polars as pl

from elicitation.pages.study.tables import OUTCOME_SHARES
from elicitation.study.arms import Arm
from lab.sampling.trace import OUTCOMES
from lab.tasks.problem import Judge, Problem
from lab.tasks.stated_answer import without_marks


def outcome_table(
    arms: Iterable[tuple[Arm, pl.DataFrame, pl.DataFrame]], problems: Sequence[Problem], judge: Judge
) -> pl.DataFrame:
    """`OUTCOME_SHARES` of arms, each with its `TRACES` and their `VERDICTS`.

    Models alone are also read for their first answer, where the judge can do that.
    """
    rows: list[dict[str, object]] = []
    for arm, traces, verdicts in arms:
        counts, n = dict(verdicts["outcome"].value_counts().iter_rows()), verdicts.height
        shares = {outcome.replace(" ", "_"): counts.get(outcome, 0) / n for outcome in OUTCOMES}
        lenient = lenient_accuracy(traces, verdicts, problems, judge) if arm.kind == "end" else nan
        rows.append(arm.named | shares | {"lenient": lenient, "n_completions": n})
    return OUTCOME_SHARES.frame(rows)


def lenient_accuracy(traces: pl.DataFrame, verdicts: pl.DataFrame, problems: Sequence[Problem], judge: Judge) -> float:
    """Share of completions whose first answer is right; where none is plainly stated the verdict stays as it is."""
    if judge.first_answer is None:
        return nan
    by_id = {problem.id: problem for problem in problems}
    right = verdicts["answer_correct"].to_list()
    for index, (problem_id, text) in enumerate(traces.select("problem_id", "text").iter_rows()):
        if (end := judge.first_answer(text)) is not None:
            right[index] = judge.verify(by_id[problem_id], without_marks(text[:end])).answer_correct
    return float(np.mean(right))
