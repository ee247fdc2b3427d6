"""Choice: the best of some listed ways of answering, by strict accuracy on problems that are kept apart for it.

`Temperature` is the simplest: sampling at the best of several temperatures.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.errors import DecodingError, EstimateError
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema
from lab.sampling.decoder import Batch, CachedDecoder, left_padded
from lab.sampling.sample import decoded, encode_prompt, end_tokens, sample
from lab.sampling.trace import Decoding, Trace
from lab.tasks.problem import Problem, Verifier
from lab.tasks.source import Task
from lab.test_time.method import Asked, Cost, Elicited, tokens_written
from lab.test_time.partial_completion import PartialCompletion, continued, ended

N_BOOT = 2000

CANDIDATES = Schema(
    "candidates",
    (
        Column("candidate", pl.String, "the way of answering, as listed"),
        Column("chosen", pl.Boolean, "whether it is the one with the highest strict accuracy, the first of equals"),
        Column("n_problems", pl.Int32, "problems it was tried on; none of them is measured later"),
        Column("n_samples", pl.Int32, "completions of each problem; null where it was left out"),
        Column("strict", pl.Float64, "strict accuracy on those problems, in [0, 1]; NaN where it was left out"),
        Column("low", pl.Float64, "lower end of its 95 % interval over problems"),
        Column("high", pl.Float64, "upper end of its 95 % interval over problems"),
        Column("n_tokens", pl.Int64, "tokens generated to try it"),
        Column("left_out", pl.String, "why it was not tried; null where it was"),
    ),
)

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitting:
    """What a choice is made on."""

    problems: tuple[Problem, ...]
    """Of the training side: a choice made on the problems that are measured would flatter itself."""
    n_samples: int = 8
    """Completions of each problem."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A candidate that cannot be tried."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tried(Generic[T]):
    """A candidate and what came of it."""

    value: T
    name: str
    traces: list[Trace] | LeftOut
    """As many completions of every problem, by problem, in their order."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Choice(Generic[T]):
    """The chosen value, and how all did."""

    chosen: T
    table: pl.DataFrame
    """`CANDIDATES`, in the order listed."""

    @property
    def n_tokens(self) -> int:
        """Tokens generated to choose."""
        return int(self.table["n_tokens"].sum())


def choose(tried: Sequence[Tried[T]], problems: Sequence[Problem], verify: Verifier, *, seed: int) -> Choice[T]:
    """The candidate of the highest strict accuracy, the first of equals; so what is plain should be listed first.

    Intervals resample the problems, with the same draws for every candidate. The chosen one's accuracy here is the
    best of several and too high by that: measure it again on other problems. Raises EstimateError where none was tried.
    """
    if all(isinstance(candidate.traces, LeftOut) for candidate in tried):
        reasons = "; ".join(f"{c.name}: {c.traces.reason}" for c in tried if isinstance(c.traces, LeftOut))
        raise EstimateError(f"no candidate can be tried ({reasons or 'none listed'}): list one that can")
    weights = resamples(len(problems), N_BOOT, numpy_generator(seed, "choice"))
    rows: list[dict[str, object]] = []
    values: list[float] = []
    for candidate in tried:
        row: dict[str, object] = {"candidate": candidate.name, "n_problems": len(problems), "left_out": None}
        match candidate.traces:
            case LeftOut(reason=reason):
                row |= {"n_samples": None, "strict": np.nan, "low": np.nan, "high": np.nan, "n_tokens": 0}
                row |= {"left_out": reason}
                values.append(-np.inf)
            case list() as traces:
                n_samples = len(traces) // len(problems)
                owners = [problem for problem in problems for _ in range(n_samples)]
                verdicts = [verify(owner, trace.text).strict for owner, trace in zip(owners, traces, strict=True)]
                interval = accuracy(np.array(verdicts).reshape(len(problems), n_samples), weights)
                row |= {"n_samples": n_samples, "strict": interval.value, "low": interval.low, "high": interval.high}
                row |= {"n_tokens": sum(len(trace.tokens) for trace in traces)}
                values.append(interval.value)
            case never:
                assert_never(never)
        rows.append(row)
    best = int(np.argmax(values))
    marked = [row | {"chosen": index == best} for index, row in enumerate(rows)]
    table = CANDIDATES.frame([{column.name: row[column.name] for column in CANDIDATES.columns} for row in marked])
    return Choice(chosen=tried[best].value, table=table)


def require_apart(fitting: Fitting, problems: Sequence[Problem]) -> None:
    """Raises EstimateError where a problem to be measured is also one to choose on."""
    shared = sorted({problem.id for problem in fitting.problems} & {problem.id for problem in problems})
    if shared:
        raise EstimateError(
            f"{len(shared)} of {len(problems)} problems ({shared[0]!r}, ...) would be both chosen on and measured: "
            "choose on problems of the training side"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """The temperature with the highest strict accuracy on other problems; it costs no more tokens than any other."""

    temperatures: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    """0 is greedy decoding. The first of equals is chosen."""
    fitting: Fitting

    def answer(self, asked: Asked) -> Elicited:
        """Answers at that temperature, in the place of the one in `asked.decoding`."""
        require_apart(self.fitting, asked.problems)
        choice = self.choose(asked)
        traces = _at(choice.chosen, asked, asked.problems, asked.n_samples)
        cost = Cost(n_tokens=tokens_written(traces, asked.problems), n_fit_tokens=choice.n_tokens)
        return Elicited(traces, cost, choice.table)

    def choose(self, asked: Asked) -> Choice[float]:
        """The temperature at which most samples are strictly right, the first of equals; all draw the same numbers."""
        problems = self.fitting.problems
        tried = [
            Tried(
                temperature, f"temperature {temperature:g}", _at(temperature, asked, problems, self.fitting.n_samples)
            )
            for temperature in self.temperatures
        ]
        return choose(tried, problems, asked.task.verify, seed=asked.seed)


def _at(temperature: float, asked: Asked, problems: Sequence[Problem], n_samples: int) -> list[Trace]:
    decoding = replace(asked.decoding, temperature=temperature)
    n_drawn = n_samples_at(temperature, n_samples)
    return sample(asked.model, problems, n_drawn, decoding, seed=asked.seed, batch_size=asked.batch_size)


def n_samples_at(temperature: float, n_samples: int) -> int:
    """`n_samples`, or 1 at temperature 0, where all would be one."""
    return n_samples if temperature else 1


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfConsistency:
    """Many sampled completions, and the answer that most of them state.

    With one vote this is plain sampling at the same temperature, which is its control: what the vote itself adds.
    """

    n_votes: int = 40
    """Completions behind one answer; 40 in the paper."""
    temperature: float = 0.7
    """As the paper has it for its largest models."""

    def __post_init__(self) -> None:
        if self.n_votes < 1:
            raise DecodingError(f"self-consistency of {self.n_votes} votes: want at least one")

    def answer(self, asked: Asked) -> Elicited:
        """Answers of each problem, each the completion that stands for a vote of its own.

        Answer s is decided by the samples s * n_votes to (s + 1) * n_votes - 1 of the problem, so votes share nothing.
        The paper compares answers and keeps no reasoning; here the first completion that states the winning answer
        stands for the vote, so that its process can be judged. A vote won by bare answers is then seldom strictly
        right.
        """
        decoding, n_drawn = replace(asked.decoding, temperature=self.temperature), asked.n_samples * self.n_votes
        votes = sample(asked.model, asked.problems, n_drawn, decoding, seed=asked.seed, batch_size=asked.batch_size)
        traces: list[Trace] = []
        for start in range(0, len(votes), self.n_votes):
            electorate = votes[start : start + self.n_votes]
            answers = [asked.task.read_answer(trace.text) for trace in electorate]
            winner = electorate[majority(answers, same=asked.task.same_answer)]
            traces.append(replace(winner, sample_index=winner.sample_index // self.n_votes))
        return Elicited(traces, Cost(n_tokens=tokens_written(votes, asked.problems)))


def majority(answers: Sequence[str | None], *, same: Callable[[str, str], bool]) -> int:
    """Where the most frequent answer is stated first; of equally frequent ones, that which was seen first.

    None is no vote; where nobody votes it is 0. An answer counts for the first earlier one that `same` says it equals.
    """
    stated = {place: answer for place, answer in enumerate(answers) if answer is not None}
    ballots: dict[int, int] = {}
    for place, answer in stated.items():
        found = next((first for first in ballots if same(answer, stated[first])), place)
        ballots[found] = ballots.get(found, 0) + 1
    return max(ballots, key=lambda first: ballots[first], default=0)


def answer_span(read_answer: Callable[[str], str | None], text: str) -> range | None:
    """The characters of the answer that a task's `read_answer` finds in `text`; None where it finds no such words.

    It is the last place where the answer stands and without which the task reads something else, whatever the form of
    the task; where there is no such place (the same number closes two sentences), the last place of all.
    """
    answer = read_answer(text)
    if answer is None:
        return None
    places = list(_places(answer, text))
    read = (start for start in places if read_answer(text[:start] + text[start + len(answer) :]) != answer)
    start = next(read, places[0] if places else None)
    return None if start is None else range(start, start + len(answer))


def token_span(model: Model, tokens: Sequence[int], characters: range) -> range:
    """The tokens of a completion whose text has a part in `characters` of the completion's."""

    def n_characters(n_tokens: int) -> int:
        return len(decoded(model.tokenizer, list(tokens[:n_tokens])))

    counts = range(len(tokens) + 1)
    first = bisect_right(counts, characters.start, key=n_characters) - 1
    return range(first, bisect_left(counts, characters.stop, key=n_characters))


def _places(part: str, text: str) -> Iterator[int]:
    """Where `part` begins in `text`, from the last place to the first; overlapping ones too."""
    start = text.rfind(part) if part else -1
    while start >= 0:
        yield start
        start = text.rfind(part, 0, start + len(part) - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class CotDecoding:
    """Branches at the first token, each completed greedily.

    With one branch this is greedy decoding, which is its control: what looking aside adds.
    """

    n_branches: int = 10
    """The likeliest first tokens, as many as this; 10 in the paper (a small vocabulary has fewer)."""

    def __post_init__(self) -> None:
        if self.n_branches < 1:
            raise DecodingError(f"CoT-decoding with {self.n_branches} branches: want at least one")

    def answer(self, asked: Asked) -> Elicited:
        """One answer a problem: the branch whose answer the model is surest of ("Chain-of-Thought Reasoning Without
        Prompting", arXiv 2402.10200, without its aggregation over branches). Nothing is random.

        A branch's score is the mean, over the tokens of the answer that it states, of the probability of the token
        written less that of the likeliest other one: the paper's gap of the top two wherever the token is the greedy
        one. At the branching token the paper's gap would be the same for all branches, so that branches which answer at
        once could not be told apart; there the difference may be negative. A branch that states no answer loses to all
        that do; of equal scores the branch of the likelier first token wins. Only the limits of `asked.decoding` are
        used.
        """
        model, greedy = asked.model, replace(asked.decoding, temperature=0.0, top_p=1.0)
        traces: list[Trace] = []
        n_tokens: list[int] = []
        stride = max(1, asked.batch_size // self.n_branches)
        for start in range(0, len(asked.problems), stride):
            some = asked.problems[start : start + stride]
            opened = branches(model, [encode_prompt(model, problem.prompt, greedy) for problem in some], self, greedy)
            flat = [branch for of_problem in opened for branch in of_problem]
            keys = np.zeros(len(flat), dtype=np.uint64)
            written = iter(continued(model, flat, keys, greedy, watch=greedy_gap, batch_size=asked.batch_size))
            for problem, of_problem in zip(some, opened, strict=True):
                finished = [next(written) for _ in of_problem]
                candidates = [partial.trace(model, problem, 0, greedy) for partial in finished]
                scores = [
                    surety(model, asked.task, trace, partial.notes)
                    for trace, partial in zip(candidates, finished, strict=True)
                ]
                traces.append(candidates[int(np.argmax(scores))])
                n_tokens.append(sum(len(partial.tokens) for partial in finished))
        return Elicited(traces, Cost(n_tokens=tuple(n_tokens)))


@torch.inference_mode()
def branches(
    model: Model, prompts: Sequence[Sequence[int]], method: CotDecoding, decoding: Decoding
) -> list[list[PartialCompletion]]:
    """For each prompt drafts of one token, the likeliest first."""
    padded = left_padded(model, prompts)
    owner = torch.arange(len(prompts), device=model.device)
    batch = Batch(padded.tokens, padded.mask, owner, np.zeros(len(prompts), dtype=np.uint64))
    logits = CachedDecoder(model, batch).propose().logits.float()
    if not logits.logsumexp(dim=-1).isfinite().all():
        raise DecodingError("the model gave first-token logits that are not finite; try --dtype float32")
    # Stable, so that which of equal tokens is taken does not depend on the batch.
    tokens = logits.sort(dim=-1, descending=True, stable=True).indices[:, : method.n_branches]
    logprobs = logits.log_softmax(dim=-1).gather(1, tokens)
    notes, ends = gap(logits, tokens), end_tokens(model)
    return [
        [
            ended(
                model,
                PartialCompletion(prompt=tuple(prompt), tokens=(token,), logprobs=(logprob,), notes=(note,)),
                0,
                decoding,
                ends,
            )
            for token, logprob, note in zip(*columns, strict=True)
        ]
        for prompt, *columns in zip(prompts, tokens.tolist(), logprobs.tolist(), notes.tolist(), strict=True)
    ]


def gap(logits: Float[Tensor, "row d_vocab"], tokens: Int[Tensor, "row chosen"]) -> Float[Tensor, "row chosen"]:
    """The probability of each given token less that of the likeliest other one: above 0 only for the greedy token."""
    probabilities = logits.float().softmax(dim=-1)
    top = probabilities.topk(2, dim=-1)
    runner_up = torch.where(tokens == top.indices[:, :1], top.values[:, 1:], top.values[:, :1])
    return probabilities.gather(1, tokens) - runner_up


def greedy_gap(logits: Float[Tensor, "row d_vocab"]) -> Float[Tensor, " row"]:
    """The gap of the top two probabilities."""
    return gap(logits, logits.float().argmax(dim=-1, keepdim=True))[:, 0]


def surety(model: Model, task: Task, trace: Trace, gaps: Sequence[float]) -> float:
    """The mean of the tokens' `gaps` over the answer that a completion states; -inf where it states none."""
    characters = answer_span(task.read_answer, trace.text)
    if characters is None:
        return -np.inf
    span = token_span(model, trace.tokens, characters)
    return float(np.mean(gaps[span.start : span.stop]))
