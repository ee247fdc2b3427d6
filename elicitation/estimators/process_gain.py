"""E8, process gain: what the steps of the tuned model's completions tell a reader about the answer."""

import numpy as np
import polars as pl

from elicitation.estimators.estimate import ESTIMATES, Analysis, Unit, estimate, problem_weights
from lab.metrics.bootstrap import mean_interval
from lab.scoring.evidence import Evidence, Role

_ANY = (-np.inf, np.inf)
_RATE = (0.0, 1.0)
_QUANTITIES: dict[str, tuple[str, Unit, tuple[float, float]]] = {
    "preleak": ("information gain before leakage", "nats", _ANY),
    "whole": ("information gain, whole chain", "nats", _ANY),
    "followed": ("counterfactual-follow rate", "probability", _RATE),
    "start": ("early answers right at the start", "probability", _RATE),
    "halfway": ("early answers right halfway", "probability", _RATE),
    "end": ("early answers right at the end", "probability", _RATE),
}
"""Column of `_traces` -> what it is called, its unit, and the extremes of its values."""


def process_gain(evidence: Evidence, analysis: Analysis) -> pl.DataFrame:
    """`ESTIMATES` of the steps' information about the answer, and of their use, for either reader.

    With l(i) the log-probability of the gold answer after i steps of n: the gain of the whole chain is l(n) - l(0); the
    gain before leakage is l(j) - l(0) with j the last step before the first that states the answer (so 0 where already
    the first step does), in nats. Follow rate: how often the reader ends with what a falsified step implies, over the
    steps that could be falsified. Early answers: how often the reader is right after 0, n // 2 and n steps.
    Each is a mean over the traces of a problem, then over problems; only problems with such traces count, and how
    many of them a resample holds varies (domain estimation, as in `accuracy_by_family`).

    Source: Information Gain of "Knowledge or Reasoning?" (arXiv 2506.02126). Departures: answer tokens only instead of
    the perplexity of all, log-probabilities instead of perplexities, a sum instead of a mean over steps (which falls
    with length alone), the model's own steps instead of a paraphrase, and the stop before leakage. The follow rate and
    the early answers are not in it.
    """
    return ESTIMATES.frame([row for reader in (Role.BASE, Role.TUNED) for row in _rows(evidence, analysis, reader)])


def _rows(evidence: Evidence, analysis: Analysis, reader: str) -> list[dict[str, object]]:
    """The rows of one reader."""
    steps = evidence.process.filter(pl.col("reader") == reader)
    refusal = _refusal(steps, reader)
    traces = _traces(steps)
    rows: list[dict[str, object]] = []
    for column, (what, unit, bounds) in _QUANTITIES.items():
        quantity = f"{what}, read by {reader}"
        problems = traces.drop_nulls(column).group_by("problem_id").agg(pl.col(column).mean()).sort("problem_id")
        if refusal or problems.is_empty():
            unfalsified = "no step could be falsified: cut completions whose steps can be checked"
            rows.append(estimate("E8", quantity, unit, None, refusal or unfalsified))
            continue
        weights = problem_weights(evidence, analysis, problems)
        rows.append(estimate("E8", quantity, unit, mean_interval(problems[column].to_numpy(), weights, bounds=bounds)))
    return rows


def _refusal(steps: pl.DataFrame, reader: str) -> str | None:
    """Why nothing can be said of this reader: nothing was read, or not after every step."""
    if steps.is_empty():
        return f"nothing was read by {reader}: cut completions of the tuned model after each step, and let it go on"
    whole = pl.col("step").sort() == pl.int_range(pl.len(), dtype=pl.Int32)
    traces = steps.group_by("problem_id", "sample_index").agg(
        whole=whole.all() & (pl.len() == pl.col("n_steps").max() + 1)
    )
    n_broken = traces.height - int(traces["whole"].sum())
    if n_broken:
        return (
            f"{n_broken} of {traces.height} completions were not read once after each step: "
            "cut them after 0, 1, ... and all n_steps steps"
        )
    return None


def _traces(steps: pl.DataFrame) -> pl.DataFrame:
    """One row a completion with the columns of `_QUANTITIES`; `followed` is null where no step could be falsified."""
    trace = ("problem_id", "sample_index")
    step, logp, right = pl.col("step"), pl.col("logp_answer"), pl.col("early_correct").cast(pl.Float64)
    first_leak = step.filter("leaked").min().over(trace)
    read = steps.sort(*trace, "step").with_columns(
        clean=(step == 0) | first_leak.is_null() | (step < first_leak), half=pl.col("n_steps") // 2
    )
    return read.group_by(trace).agg(
        preleak=logp.filter("clean").last() - logp.first(),
        whole=logp.last() - logp.first(),
        followed=pl.col("followed").cast(pl.Float64).mean(),
        start=right.first(),
        halfway=right.filter(step == pl.col("half")).first(),
        end=right.last(),
    )
