"""Trace: one completion with all that was recorded while it was written, and the tables of traces and verdicts."""

from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem, Verifier

ROUTES = ("base", "steered", "tuned")
"""Who wrote a token: the model itself, the model under a steering vector, or the tuned model in its place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """One completion of one prompt."""

    problem_id: str
    sample_index: int
    tokens: tuple[int, ...]
    """With the end token, if one came."""
    logprobs: tuple[float, ...]
    """Natural log-probability of each token under the distribution that wrote it, at temperature 1."""
    routes: tuple[int, ...]
    """For each token an index into `ROUTES`."""
    categories: tuple[int, ...]
    """For each token the category that a hybrid found there, -1 where none was asked."""
    content_bits: tuple[float, ...]
    """For each token the bits that crossed from a second model by a choice or a substitution."""
    text: str
    """Decoded without special tokens, cut before a stop string."""
    stop: str
    """Why it ended: "eos", "stop" (a stop string) or "length"."""


TRACES = Schema(
    "traces",
    (
        Column("arm", pl.String, "which arm of the study wrote the completion"),
        Column("problem_id", pl.String, "the problem it answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("tokens", pl.List(pl.Int32), "token ids, with the end token if one came"),
        Column("logprobs", pl.List(pl.Float32), "nats, under the distribution that wrote the token, at temperature 1"),
        Column("routes", pl.List(pl.UInt8), "who wrote the token: 0 base, 1 steered, 2 tuned"),
        Column("categories", pl.List(pl.Int16), "category at a routed token, -1 where none was asked"),
        Column(
            "content_bits",
            pl.List(pl.Float32),
            "bits from the tuned model: -log2 of the base's probability (temperature 1) of a token that the tuned "
            "model wrote, log2 of the number of different candidates where it chose one, else 0",
        ),
        Column("text", pl.String, "decoded completion without special tokens"),
        Column("stop", pl.String, "eos, stop or length"),
    ),
)

VERDICTS = Schema(
    "verdicts",
    (
        Column("arm", pl.String, "which arm of the study wrote the completion"),
        Column("problem_id", pl.String, "the problem it answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("answer_correct", pl.Boolean, "the final answer equals the gold answer"),
        Column("process_valid", pl.Boolean, "every step is true and used; null where it cannot be checked"),
        Column("strict", pl.Boolean, "correct, and not by an invalid process"),
        Column("reason", pl.String, "ok, or the first fault found"),
    ),
)


def trace_table(arm: str, traces: Iterable[Trace]) -> pl.DataFrame:
    """`TRACES` rows in the order given."""
    return TRACES.frame(
        [
            {
                "arm": arm,
                "problem_id": trace.problem_id,
                "sample_index": trace.sample_index,
                "tokens": list(trace.tokens),
                "logprobs": list(trace.logprobs),
                "routes": list(trace.routes),
                "categories": list(trace.categories),
                "content_bits": list(trace.content_bits),
                "text": trace.text,
                "stop": trace.stop,
            }
            for trace in traces
        ]
    )


def verdict_table(traces: pl.DataFrame, problems: Iterable[Problem], verify: Verifier) -> pl.DataFrame:
    """One `VERDICTS` row for each row of a `TRACES` table."""
    by_id = {problem.id: problem for problem in problems}
    rows: list[dict[str, object]] = []
    for arm, problem_id, sample_index, text in traces.select("arm", "problem_id", "sample_index", "text").iter_rows():
        verdict = verify(by_id[problem_id], text)
        rows.append(
            {
                "arm": arm,
                "problem_id": problem_id,
                "sample_index": sample_index,
                "answer_correct": verdict.answer_correct,
                "process_valid": verdict.process_valid,
                "strict": verdict.strict,
                "reason": verdict.reason,
            }
        )
    return VERDICTS.frame(rows)
