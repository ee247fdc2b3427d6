"""Evidence: what was measured on one pair of models and one task, as tables; all that an estimator may look at."""

from dataclasses import dataclass

import polars as pl

from lab.records.errors import EstimateError
from lab.records.tables import Column, Schema
from lab.sampling.trace import VERDICTS

_WRITER = Column("writer", pl.String, "whose completion it is: base or tuned")
_PROBLEM = Column("problem_id", pl.String, "the problem it answers")
_SAMPLE = Column("sample_index", pl.Int32, "number of the sample of this problem, from 0")

SCORES = Schema(
    "scores",
    (
        _WRITER,
        _PROBLEM,
        _SAMPLE,
        Column("n_tokens", pl.Int32, "tokens of the completion, its end token included"),
        Column("logp_base", pl.Float64, "nats: log-probability of the completion under the base model, temperature 1"),
        Column("logp_tuned", pl.Float64, "nats: the same under the tuned model"),
        Column(
            "token_kl",
            pl.Float64,
            "nats: sum over tokens of the divergence of the writer's next-token distribution from the other model's",
        ),
    ),
)
"""Samples of either model at temperature 1 without top-p, read by both."""

RANKS = Schema(
    "ranks",
    (
        _WRITER,
        _PROBLEM,
        _SAMPLE,
        Column("position", pl.Int32, "token of the completion that is at stake, from 0"),
        Column("rank", pl.Int32, "rank of the tuned model's first choice among the base model's; 1: they agree"),
        Column("entropy", pl.Float64, "nats: entropy of the base model's next-token distribution"),
    ),
)
"""Every token of some completions, and what either model would have written there."""

PROCESS = Schema(
    "process",
    (
        Column("reader", pl.String, "who goes on from the steps: base or tuned"),
        _PROBLEM,
        _SAMPLE,
        Column("step", pl.Int32, "steps of the tuned model's completion that were read, from 0"),
        Column("n_steps", pl.Int32, "steps that the whole completion has"),
        Column("logp_answer", pl.Float64, "nats: log-probability of the gold answer, asked for after those steps"),
        Column("leaked", pl.Boolean, "one of those steps states the gold answer"),
        Column("early_correct", pl.Boolean, "asked for the answer after those steps, the reader gives the gold one"),
        Column(
            "followed",
            pl.Boolean,
            "with the last of those steps falsified, the reader ends with what follows from it; null at step 0",
        ),
    ),
)
"""Completions of the tuned model, cut after each step."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """The tables of one pair and task; `scores`, `ranks`, `process` or `old_verdicts` may have no rows."""

    verdicts: pl.DataFrame
    """`VERDICTS` of the arms `base` and `tuned` and of every arm of the ladder, all on the same problems."""
    scores: pl.DataFrame
    """`SCORES`, for the same samples as the verdicts of `base` and `tuned`, or the first few of each problem."""
    ranks: pl.DataFrame
    """`RANKS`."""
    process: pl.DataFrame
    """`PROCESS`."""
    old_verdicts: pl.DataFrame
    """`VERDICTS` of `base` and `tuned` on a task that the tuning was not about."""

    def __post_init__(self) -> None:
        for schema, name in (
            (VERDICTS, "verdicts"),
            (SCORES, "scores"),
            (RANKS, "ranks"),
            (PROCESS, "process"),
            (VERDICTS, "old_verdicts"),
        ):
            schema.checked(getattr(self, name))
        for name in ("verdicts", "old_verdicts"):
            check_arms(name, getattr(self, name))
        known = self.verdicts["problem_id"].unique().to_list()
        for name in ("scores", "ranks", "process"):
            strangers = getattr(self, name).filter(~pl.col("problem_id").is_in(known))["problem_id"]
            if len(strangers):
                raise EstimateError(f"{name} has rows of {strangers[0]!r}, a problem without verdicts: give both")


def check_arms(name: str, verdicts: pl.DataFrame) -> None:
    """EstimateError unless every arm has verdicts on the same problems, since arms are paired by problem."""
    n_problems = verdicts["problem_id"].n_unique()
    counts = verdicts.group_by("arm").agg(pl.col("problem_id").n_unique())
    for arm, n_mine in counts.iter_rows():
        if n_mine < n_problems:
            raise EstimateError(
                f"in {name} the arm {arm!r} has {n_mine} of {n_problems} problems: want every arm on the same problems"
            )
