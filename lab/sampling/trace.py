"""Trace: one completion with all that was recorded while it was written, and the tables of traces and verdicts."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.records.errors import DecodingError
from lab.records.tables import Column, Schema
from lab.tasks.problem import Problem, Verdict, Verifier
from lab.tasks.stated_answer import before_run_on, behind_thought

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
    """Decoded, special tokens as text but for ends, padding and the one that opens a text; cut before a stop string."""
    stop: str
    """Why it ended: "eos", "stop" (a stop string) or "length"."""


_KEY = (
    Column("arm", pl.String, "which arm of the study wrote the completion"),
    Column("problem_id", pl.String, "the problem it answers"),
    Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
)
TRACES = Schema(
    "traces",
    (
        *_KEY,
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
        Column(
            "text",
            pl.String,
            "decoded completion, with special tokens but for ends, padding, the opening and the unknown one",
        ),
        Column("stop", pl.String, "eos, stop or length"),
    ),
    key=tuple(column.name for column in _KEY),
    optional=(),
)
VERDICTS = Schema(
    "verdicts",
    (
        *_KEY,
        Column("answer_correct", pl.Boolean, "the final answer equals the gold answer"),
        Column("process_valid", pl.Boolean, "every step is true and used; null where it cannot be checked"),
        Column("strict", pl.Boolean, "correct, and not by an invalid process"),
        Column("reason", pl.String, "ok, or the first fault found"),
        Column("read_by", pl.String, "by which rule the answer was read; null where none is stated, or it is cut"),
        Column(
            "outcome",
            pl.String,
            "right (the answer), wrong, no answer, or cut: not right, and ended by the limit or inside its thinking",
        ),
    ),
    key=tuple(column.name for column in _KEY),
)
OUTCOMES = ("right", "wrong", "no answer", "cut")
"""What may come of a completion."""


def trace_table(arm: str, traces: Iterable[Trace]) -> pl.DataFrame:
    """`TRACES` rows in the order given."""
    names = [column.name for column in TRACES.columns[1:]]
    return TRACES.frame([{"arm": arm, **{name: getattr(trace, name) for name in names}} for trace in traces])


def verdict_table(traces: pl.DataFrame, problems: Iterable[Problem], verify: Verifier) -> pl.DataFrame:
    """One `VERDICTS` row for each row of a `TRACES` table."""
    by_id = {problem.id: problem for problem in problems}
    names = "arm", "problem_id", "sample_index", "text", "stop"
    rows: list[dict[str, object]] = []
    for arm, problem_id, sample_index, text, stop in traces.select(names).iter_rows():
        verdict = verify(by_id[problem_id], text)
        row = {"arm": arm, "problem_id": problem_id, "sample_index": sample_index, "strict": verdict.strict}
        outcome = outcome_of(verdict, text, stop)
        read_by = None if outcome == "cut" else verdict.read_by
        rows.append(row | asdict(verdict) | {"read_by": read_by, "outcome": outcome})
    return VERDICTS.frame(rows)


def outcome_of(verdict: Verdict, text: str, stop: str) -> str:
    """One of `OUTCOMES`. A text that ran on, behind its answer, until the limit cut it, was not cut before that."""
    if verdict.answer_correct:
        return "right"
    part = behind_thought(text)
    if part is None or (stop == "length" and before_run_on(part) == part):
        return "cut"
    return "no answer" if verdict.read_by is None else "wrong"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Limits and distribution of a completion.

    >>> el.sample(base, "<8-1+9?T", n=2, decoding=el.Decoding(temperature=0.0))["text"].to_list()
    ['8-1=7;7+9=6;V6;A6', '8-1=7;7+9=6;V6;A6']
    """

    temperature: float = 1.0
    """Of sampling: the logits are divided by it; 0 takes the most likely token (greedy)."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all (use 1 for coverage)."""
    max_new_tokens: int = 96
    """Longest completion."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the text of the trace is cut before them."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise DecodingError(f"temperature {self.temperature}: want 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise DecodingError(f"top_p {self.top_p}: want a number above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise DecodingError(f"max_new_tokens {self.max_new_tokens}: want at least 1")
        if any(not text for text in self.stop):
            raise DecodingError("an empty stop string would end every completion: remove it")


GREEDY = Decoding(temperature=0.0)


class Pick(NamedTuple):
    """One chosen token a row."""

    tokens: Int[Tensor, " row"]
    logprobs: Float[Tensor, " row"]
    """Natural log-probability of the token under the plain logits: temperature 1, nothing cut off."""
    finite: Bool[Tensor, " row"]
    """False where the logits hold NaN or +inf, or nothing but -inf; the row's other entries then mean nothing."""


def pick(logits: Float[Tensor, "row d_vocab"], uniform: Float[Tensor, " row"], decoding: Decoding) -> Pick:
    """Chooses a token in each row by inverting the cumulative distribution at `uniform` in [0, 1).

    One number a token, so a sample depends on the logits of its own row and on nothing else in the batch.
    """
    logits = logits.float()
    total = logits.logsumexp(dim=-1)
    finite = total.isfinite()
    if decoding.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        weights = torch.softmax(logits / decoding.temperature, dim=-1)
        if decoding.top_p < 1:
            weights = nucleus(weights, decoding.top_p)
        # MPS has no float64; elsewhere it keeps the tail of a large vocabulary reachable.
        cumulative = weights.to(torch.float32 if weights.device.type == "mps" else torch.float64).cumsum(dim=-1)
        threshold = uniform.to(cumulative.dtype).to(cumulative.device) * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
    return Pick(tokens, logprobs, finite)


def nucleus(weights: Float[Tensor, "row d_vocab"], top_p: float) -> Float[Tensor, "row d_vocab"]:
    """`weights` with everything outside the nucleus set to zero (Holtzman et al. 2020); not renormalised."""
    # Stable, so that which of equal weights are inside does not depend on the batch.
    ordered, index = weights.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return weights.scatter(1, index, ordered.masked_fill(outside, 0.0))
