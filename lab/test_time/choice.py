"""The best of some listed ways of answering, by strict accuracy on problems that are kept apart for it.

What is chosen among is temperatures (`Temperature`) or ways of putting the problem (`BestPrompt`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar, assert_never

import numpy as np
import polars as pl
import torch
from jaxtyping import Int
from torch import Tensor

from lab.metrics.accuracy import accuracy
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.errors import DecodingError, EstimateError
from lab.records.seeds import numpy_generator
from lab.records.tables import Column, Schema
from lab.sampling.decoder import Batch, CachedDecoder, Proposal
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import Trace
from lab.tasks.chain import CAREFUL, as_problem, chain_document
from lab.tasks.problem import Problem, Verifier
from lab.tasks.source import ChainTask, Task
from lab.test_time.method import Asked, Cost, Elicited, tokens_written

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
        match candidate.traces:
            case LeftOut(reason=reason):
                values.append(np.nan)
                found = {"n_samples": None, "low": np.nan, "high": np.nan, "n_tokens": 0, "left_out": reason}
            case list() as traces:
                n_samples = len(traces) // len(problems)
                owners = [problem for problem in problems for _ in range(n_samples)]
                verdicts = [verify(owner, trace.text).strict for owner, trace in zip(owners, traces, strict=True)]
                interval = accuracy(np.array(verdicts).reshape(len(problems), n_samples), weights)
                values.append(interval.value)
                found = {"n_samples": n_samples, "low": interval.low, "high": interval.high, "left_out": None}
                found |= {"n_tokens": sum(len(trace.tokens) for trace in traces)}
            case never:
                assert_never(never)
        rows.append({"candidate": candidate.name, "n_problems": len(problems), "strict": values[-1], **found})
    best = int(np.nanargmax(values))
    table = CANDIDATES.frame([row | {"chosen": index == best} for index, row in enumerate(rows)])
    return Choice(chosen=tried[best].value, table=table)


def require_apart(fitting: Fitting, problems: Sequence[Problem]) -> None:
    """Raises EstimateError where a problem to be measured is also one to choose on."""
    shared = sorted({problem.id for problem in fitting.problems} & {problem.id for problem in problems})
    if shared:
        raise EstimateError(
            f"{len(shared)} of {len(problems)} problems ({shared[0]!r}, ...) would be both chosen on and measured: "
            "choose on problems of the training side"
        )


def answered(
    asked: Asked,
    fitting: Fitting,
    choosing: Callable[[Asked], Choice[T]],
    write: Callable[[T, Asked, Sequence[Problem], int], list[Trace]],
) -> Elicited:
    """Answers in the way that is chosen, which `write` writes for given problems, as many of each."""
    require_apart(fitting, asked.problems)
    choice = choosing(asked)
    traces = write(choice.chosen, asked, asked.problems, asked.n_samples)
    cost = Cost(n_tokens=tokens_written(traces, asked.problems), n_fit_tokens=int(choice.table["n_tokens"].sum()))
    return Elicited(traces, cost, choice.table)


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptForm:
    """Text around a problem's prompt, and how the completion is made to begin."""

    name: str
    prefix: str = ""
    """Before the prompt, such as worked examples."""
    suffix: str = ""
    """Behind it, such as an instruction."""
    opening: str = ""
    """The forced beginning of the completion; it is part of the completion, and of its judgement.

    Eligible like any other form: anyone who has seen a worked answer can write one, so what it gains was elicited by
    prompt. Left out, vectors that do no more than set the first token (the known confound) would look like more.
    """


AS_IS = PromptForm(name="as is")
CHAIN_OPENING = PromptForm(name="opening T", opening="T")
"""The first token of a worked chain, forced: the confound of every first-token vector in the chain world."""
TEXT_FORMS = (
    AS_IS,
    PromptForm(name="instructed", prefix="Solve the following problem. Show your reasoning before the answer.\n\n"),
    PromptForm(name="question and answer", prefix="Question: ", suffix="\nAnswer: "),
    PromptForm(name="step by step", opening="Let's think step by step.\n"),
    PromptForm(
        name="to be sure", opening="Let's work this out in a step by step way to be sure we have the right answer.\n"
    ),
    PromptForm(name="deep breath", suffix="\nTake a deep breath and work on this problem step-by-step.\n"),
)
"""For models of natural language; the last three after Kojima et al. 2022, Zhou et al. 2022 and Yang et al. 2023."""


def chain_forms(n_examples: Sequence[int] = (1, 2), *, seed: int = 0) -> tuple[PromptForm, ...]:
    """Forms for the chain world: as it is, behind worked examples of three steps, and with the chain opened.

    Examples are flawless and of the training side. Organisms read one document a row, so a row of several is strange
    to them.
    """
    generator = numpy_generator(seed, "worked examples")
    expressions = ChainTask(lengths=(3, 3)).expressions(generator, held_out=False)
    drawn = [next(expressions) for _ in range(max(n_examples, default=0))]
    examples = [as_problem(expression).prompt + chain_document(expression, CAREFUL, generator) for expression in drawn]
    few_shot = (PromptForm(name=f"worked examples: {n}", prefix="".join(examples[:n])) for n in n_examples)
    return (AS_IS, *few_shot, CHAIN_OPENING)


def prompt_forms(task: Task) -> tuple[PromptForm, ...]:
    """The listed prompts: worked examples and a forced first token where the task has chains, else instructions."""
    return chain_forms() if task.steps is not None else TEXT_FORMS


def put(form: PromptForm, problem: Problem) -> Problem:
    """The same problem, in this form; its id and so its random numbers stay."""
    return replace(problem, prompt=form.prefix + problem.prompt + form.suffix)


def sample_under(form: PromptForm, asked: Asked, problems: Sequence[Problem], n_samples: int) -> list[Trace]:
    """As `sample`, with the problems put in this form, and once where decoding is greedy, since all would be one.

    A forced token has log-probability 0: nothing was drawn.
    """
    opening = tuple(asked.model.tokenizer(form.opening, add_special_tokens=False).input_ids)
    return sample(
        asked.model,
        [put(form, problem) for problem in problems],
        n_samples if asked.decoding.temperature else 1,
        asked.decoding,
        seed=asked.seed,
        batch_size=asked.batch_size,
        open_rows=partial(ForcedRows, asked.model, opening) if opening else None,
    )


class ForcedRows:
    """Rows of one model whose first tokens are given; nothing else can be drawn there."""

    def __init__(self, model: Model, opening: tuple[int, ...], batch: Batch) -> None:
        self.rows = CachedDecoder(model, batch)
        self.opening = opening
        self.step = 0

    def propose(self) -> Proposal:
        """The given token for certain; behind the opening the model's own distribution."""
        proposal = self.rows.propose()
        if self.step >= len(self.opening):
            return proposal
        certain = proposal.logits.new_full(proposal.logits.shape, -torch.inf)
        certain[:, self.opening[self.step]] = 0.0
        return Proposal(certain, proposal.route)

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One token more in every row."""
        self.step += 1
        self.rows.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows."""
        self.rows.keep(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Temperature:
    """The temperature with the highest strict accuracy on other problems; it costs no more tokens than any other."""

    temperatures: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0)
    """0 is greedy decoding. The first of equals is chosen."""
    fitting: Fitting

    def answer(self, asked: Asked) -> Elicited:
        """Answers at that temperature, in the place of the one in `asked.decoding`."""
        return answered(asked, self.fitting, self.choose, sample_at)

    def choose(self, asked: Asked) -> Choice[float]:
        """The temperature at which most samples are strictly right, the first of equals; all draw the same numbers."""
        problems, n_samples = self.fitting.problems, self.fitting.n_samples
        tried = [
            Tried(value, f"temperature {value:g}", sample_at(value, asked, problems, n_samples))
            for value in self.temperatures
        ]
        return choose(tried, problems, asked.task.verify, seed=asked.seed)


def sample_at(temperature: float, asked: Asked, problems: Sequence[Problem], n_samples: int) -> list[Trace]:
    """As `sample`, at this temperature."""
    decoding = replace(asked.decoding, temperature=temperature)
    return sample_under(AS_IS, replace(asked, decoding=decoding), problems, n_samples)


@dataclass(frozen=True, kw_only=True, slots=True)
class BestPrompt:
    """The prompt form with the highest strict accuracy on other problems."""

    forms: tuple[PromptForm, ...]
    fitting: Fitting

    def answer(self, asked: Asked) -> Elicited:
        """Answers under that form."""
        return answered(asked, self.fitting, self.choose, sample_under)

    def choose(self, asked: Asked) -> Choice[PromptForm]:
        """The form under which most samples are strictly right, the first of equals; all forms draw the same numbers.

        A form that does not fit in the model's context is left out, and the table says so. Raises EstimateError where
        none fits.
        """
        problems = self.fitting.problems
        tried: list[Tried[PromptForm]] = []
        for form in self.forms:
            try:
                for problem in problems:
                    encode_prompt(asked.model, put(form, problem), asked.decoding)
            except DecodingError as error:
                tried.append(Tried(form, form.name, LeftOut(str(error))))
                continue
            tried.append(Tried(form, form.name, sample_under(form, asked, problems, self.fitting.n_samples)))
        return choose(tried, problems, asked.task.verify, seed=asked.seed)
