"""PromptForm: a way of putting a problem to a model, and the choice of the best of several."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import numpy_generator
from lab.sampling.decoder import Batch, CachedDecoder, OpenDecoder, Proposal
from lab.sampling.sample import encode_prompt, sample
from lab.sampling.trace import Trace
from lab.tasks.chain import CAREFUL, as_problem, chain_document
from lab.tasks.chain_task import ChainTask
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import Choice, Fitting, LeftOut, Tried, choose, n_samples_at, require_apart
from lab.test_time.method import Asked, Cost, Elicited, tokens_written


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

    It is eligible as a prompt like any other form. "Let's think step by step" was an opening when it was published,
    anyone who has seen a worked answer can write one, and it takes nothing from the tuned model: what it gains was
    elicited by prompt. Left out, the rung would be too low, and vectors that do no more than set the first token (the
    known confound) would look like more. A study that wants both numbers adds an arm of this one form.
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
        name="to be sure",
        opening="Let's work this out in a step by step way to be sure we have the right answer.\n",
    ),
    PromptForm(name="deep breath", suffix="\nTake a deep breath and work on this problem step-by-step.\n"),
)
"""For models of natural language; the last three after Kojima et al. 2022, Zhou et al. 2022 and Yang et al. 2023."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BestPrompt:
    """The prompt form with the highest strict accuracy on other problems."""

    forms: tuple[PromptForm, ...]
    fitting: Fitting

    def answer(self, asked: Asked) -> Elicited:
        """Answers under that form."""
        require_apart(self.fitting, asked.problems)
        choice = self.choose(asked)
        traces = sample_under(choice.chosen, asked, asked.problems, asked.n_samples)
        cost = Cost(n_tokens=tokens_written(traces, asked.problems), n_fit_tokens=choice.n_tokens)
        return Elicited(traces, cost, choice.table)

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
                    encode_prompt(asked.model, put(form, problem).prompt, asked.decoding)
            except DecodingError as error:
                tried.append(Tried(form, form.name, LeftOut(str(error))))
                continue
            tried.append(Tried(form, form.name, sample_under(form, asked, problems, self.fitting.n_samples)))
        return choose(tried, problems, asked.task.verify, seed=asked.seed)


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
    """As `sample`, with the problems put in this form. A forced token has log-probability 0: nothing was drawn."""
    return sample(
        asked.model,
        [put(form, problem) for problem in problems],
        n_samples_at(asked.decoding.temperature, n_samples),
        asked.decoding,
        seed=asked.seed,
        batch_size=asked.batch_size,
        open_rows=opening_rows(asked.model, form.opening),
    )


def opening_rows(model: Model, opening: str) -> OpenDecoder | None:
    """What starts batches whose completions begin with `opening`; None, the plain model, without one."""
    if not opening:
        return None
    tokens = model.tokenizer(opening, add_special_tokens=False).input_ids
    return partial(ForcedRows, model, tuple(tokens))


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
