"""A method of answering that nothing of the tuned model reaches: what it is asked, what it gives and costs; and
completions on their way, which methods cut and continue, with a number noted beside every token."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int, UInt64
from torch import Tensor

from lab.models.engine import found_stop
from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.sampling.decoder import Batch, CachedDecoder, Proposal, is_out_of_memory, left_padded
from lab.sampling.sample import before_stop, decode
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem
from lab.tasks.source import Task


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Asked:
    """What a method is asked; DecodingError where there is nothing to do."""

    model: Model
    task: Task
    problems: Sequence[Problem]
    """Those to answer, and none of those that a method chooses on."""
    decoding: Decoding
    """Limits, and a distribution that methods may put their own in the place of."""
    n_samples: int = 1
    """Answers of each problem; one, whatever this says, where nothing is random."""
    seed: int
    batch_size: int = 256

    def __post_init__(self) -> None:
        if not self.problems or self.n_samples < 1 or self.batch_size < 1:
            raise DecodingError(
                f"{len(self.problems)} problems x {self.n_samples} answers in batches of {self.batch_size}: want at "
                "least one of each"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Tokens generated; those of prompts, which are read only, are not counted."""

    n_tokens: tuple[int, ...]
    """For each problem, in the order asked: over all its answers, with every text that was written and thrown away."""
    n_fit_tokens: int = 0
    """Spent once, on other problems, to choose how these are answered."""


def tokens_written(traces: Iterable[Trace], problems: Sequence[Problem]) -> tuple[int, ...]:
    """The tokens of each problem's traces, in the order of `problems`."""
    totals = dict.fromkeys((problem.id for problem in problems), 0)
    for trace in traces:
        totals[trace.problem_id] += len(trace.tokens)
    return tuple(totals.values())


class Elicited(NamedTuple):
    """Answers, what they cost, and how they came to be."""

    traces: list[Trace]
    """As many of each problem, by problem in the order asked, then by sample."""
    cost: Cost
    candidates: pl.DataFrame | None = None
    """`lab.test_time.choice.CANDIDATES` where something was chosen."""


@runtime_checkable
class Elicitation(Protocol):
    """A rung of the ladder that costs 0 bits: a frozen value, whose name and fields tell its digest."""

    def answer(self, asked: Asked) -> Elicited:
        """Answers of the problems.

        Its random numbers are functions of (seed, problem id, sample index) and of the place in the method, so neither
        the batch size nor the other problems change an answer. Raises EstimateError where problems to choose on are
        among those asked, or no candidate can be tried, and DecodingError as `sample` does.
        """
        ...


Watch: TypeAlias = Callable[[Float[Tensor, "row d_vocab"]], Float[Tensor, " row"]]
"""What is noted of the distribution that a token is chosen from, given its logits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialCompletion:
    """A prompt and what follows it so far."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each token at temperature 1."""
    notes: tuple[float, ...] = ()
    """What was noted where each token was chosen."""
    stop: str | None = None
    """"eos" or "stop" (a stop string) where it has ended."""

    def cut(self, n_tokens: int) -> "PartialCompletion":
        """The first `n_tokens` of it, fewer than it has; they have not ended."""
        return replace(
            self,
            tokens=self.tokens[:n_tokens],
            logprobs=self.logprobs[:n_tokens],
            notes=self.notes[:n_tokens],
            stop=None,
        )

    def trace(self, model: Model, problem: Problem, sample_index: int, decoding: Decoding) -> Trace:
        """It as a finished completion; the text is cut before a stop string."""
        return Trace(
            problem_id=problem.id,
            sample_index=sample_index,
            tokens=self.tokens,
            logprobs=self.logprobs,
            routes=(0,) * len(self.tokens),
            categories=(-1,) * len(self.tokens),
            content_bits=(0.0,) * len(self.tokens),
            text=before_stop(model.text(self.tokens), decoding.stop),
            stop=self.stop or "length",
        )


class WatchedDecoder:
    """Rows of one model that also note a number wherever a token is proposed."""

    def __init__(self, model: Model, batch: Batch, watch: Watch) -> None:
        self.rows = CachedDecoder(model, batch)
        self.watch = watch
        self.present = list(range(len(batch.keys)))
        self.notes: list[list[float]] = [[] for _ in self.present]
        """For each row of the batch; a row that has ended may have notes beyond its end."""

    def propose(self) -> Proposal:
        """The model's own distribution."""
        proposal = self.rows.propose()
        for row, note in zip(self.present, self.watch(proposal.logits).tolist(), strict=True):
            self.notes[row].append(note)
        return proposal

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One token more in every row."""
        self.rows.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows, whose notes stay."""
        self.present = [self.present[row] for row in rows.tolist()]
        self.rows.keep(rows)


@torch.inference_mode()
def continued(
    model: Model,
    drafts: Sequence[PartialCompletion],
    keys: UInt64[np.ndarray, " draft"],
    decoding: Decoding,
    *,
    watch: Watch,
    batch_size: int = 256,
) -> list[PartialCompletion]:
    """Every draft written on until it ends or has `decoding.max_new_tokens` tokens in all; ended ones as they are.

    The random number of a token is a function of its draft's key and of how many tokens were added before it.
    `batch_size` counts drafts; when memory runs out it is halved and the work goes on. Raises DecodingError where a
    single draft is too much, or logits are not finite.
    """
    results = list(drafts)
    room = [0 if partial.stop else decoding.max_new_tokens - len(partial.tokens) for partial in drafts]
    waiting = sorted((index for index in range(len(drafts)) if room[index] > 0), key=lambda index: room[index])
    for group in groups(model, drafts, room, waiting, batch_size):
        chosen = [drafts[index] for index in group]
        limit = replace(decoding, max_new_tokens=max(room[index] for index in group))
        try:
            written = _continued_together(model, chosen, keys[group], limit, watch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                raise DecodingError(
                    f"memory ran out with a single row on {model.device}: use a smaller model or --dtype, a shorter "
                    "--max-new-tokens, or another --device"
                ) from error
            half = (len(group) + 1) // 2
            written = continued(model, chosen, keys[group], decoding, watch=watch, batch_size=half)
        for index, partial in zip(group, written, strict=True):
            results[index] = ended(model, partial, len(drafts[index].tokens), decoding)
    return results


def groups(
    model: Model, drafts: Sequence[PartialCompletion], room: Sequence[int], waiting: Sequence[int], batch_size: int
) -> Iterator[list[int]]:
    """`waiting` in groups of at most `batch_size`, such that none writes any of its drafts past the model's context.

    A group is written as far as its roomiest draft may go, and the others are cut later.
    """
    context = model.anatomy.context or np.inf
    group: list[int] = []
    longest = 0
    for index in waiting:
        length = len(drafts[index].prompt) + len(drafts[index].tokens)
        # Room grows along `waiting`, so this draft's is the group's.
        if group and (len(group) == batch_size or max(longest, length) + room[index] > context):
            yield group
            group, longest = [], 0
        group, longest = [*group, index], max(longest, length)
    if group:
        yield group


def _continued_together(
    model: Model,
    drafts: Sequence[PartialCompletion],
    keys: UInt64[np.ndarray, " draft"],
    decoding: Decoding,
    watch: Watch,
) -> list[PartialCompletion]:
    """The drafts with all that one batch adds to them."""
    texts = [partial.prompt + partial.tokens for partial in drafts]
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    padded = left_padded(model, list(distinct))
    owner = torch.tensor([distinct[text] for text in texts], device=model.device)
    opened: list[WatchedDecoder] = []

    def open_rows(batch: Batch) -> WatchedDecoder:
        opened.append(WatchedDecoder(model, batch, watch))
        return opened[0]

    written = decode(open_rows, Batch(padded.tokens, padded.mask, owner, keys), decoding, model=model)
    return [
        replace(
            partial,
            tokens=partial.tokens + row.tokens,
            logprobs=partial.logprobs + row.logprobs,
            notes=partial.notes + tuple(notes[: len(row.tokens)]),
        )
        for partial, row, notes in zip(drafts, written, opened[0].notes, strict=True)
    ]


def ended(model: Model, partial: PartialCompletion, n_before: int, decoding: Decoding) -> PartialCompletion:
    """`partial` cut where it first ends, at an end, a stop string or the limit; `n_before` tokens do not end it.

    A stop string may have begun before the tokens that were added, where the decoding loop could not see it.
    """
    whole = partial if len(partial.tokens) <= decoding.max_new_tokens else partial.cut(decoding.max_new_tokens)
    for n_tokens in range(n_before + 1, len(whole.tokens) + 1):
        if whole.tokens[n_tokens - 1] in model.ends:
            return replace(whole.cut(n_tokens), stop="eos")
        if found_stop(model.tokenizer, whole.tokens[:n_tokens], decoding.stop):
            return replace(whole.cut(n_tokens), stop="stop")
    return whole
