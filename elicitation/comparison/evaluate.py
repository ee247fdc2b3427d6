"""Outcome: how well a model does under edits, problem by problem."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.seeds import child_seed
from lab.sampling.decoder import Batch, CachedDecoder, Decoder, Proposal
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from steering.edit import Add, Edit, apply, apply_each


class EditedDecoder:
    """As under `apply`, every position that is read is edited, prompt and completion, where the edit's gate is open.

    Which of `edits` a prompt has is a hash of its tokens, so batches and their order cannot change it.
    """

    def __init__(self, model: Model, edits: Sequence[Edit], batch: Batch) -> None:
        self.model, self.edits = model, edits
        of_prompts = chosen_edits(batch, len(edits))
        with apply_each(model, edits, of_prompts):
            self.rows = CachedDecoder(model, batch)
        self.chosen = of_prompts[batch.owner.cpu()]

    def propose(self) -> Proposal:
        """The edited model's own distribution."""
        return self.rows.propose()

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One edited forward pass over one position."""
        with apply_each(self.model, self.edits, self.chosen):
            self.rows.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows."""
        self.rows.keep(rows)
        self.chosen = self.chosen[rows.cpu()]


def chosen_edits(batch: Batch, n_edits: int) -> Int[Tensor, " prompt"]:
    """Which edit each prompt of `batch` has."""
    texts = [prompt[kept].tolist() for prompt, kept in zip(batch.prompts, batch.mask, strict=True)]
    return torch.tensor([child_seed(0, "edit", *text) % n_edits for text in texts])


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSpec:
    """What is asked, and how it is answered. Outcomes of one exam are paired: they draw the same random numbers."""

    task: Task
    n_samples: int = 8
    """Completions of each problem."""
    decoding: Decoding = field(default_factory=Decoding)
    seed: int = 0
    batch_size: int = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EvalResult:
    """Shares of a problem's completions, each in [0, 1]."""

    strict: Float[np.ndarray, " problem"]
    """Right by a valid process."""
    answer: Float[np.ndarray, " problem"]
    """Right in the final answer."""
    incoherent: Float[np.ndarray, " problem"]
    """Not to be read (`is_coherent`)."""


def evaluate(model: Model, edits: Sequence[Add], eval_spec: EvalSpec) -> EvalResult:
    """Samples completions under all of `edits`, and judges them. Raises as `apply` and `sample` do."""
    with apply(model, *edits):
        traces = sample(
            model,
            eval_spec.task.problems,
            eval_spec.n_samples,
            eval_spec.decoding,
            seed=eval_spec.seed,
            batch_size=eval_spec.batch_size,
        )
    return judged(traces, eval_spec)


def evaluate_by_prompt(model: Model, edits: Sequence[Add], eval_spec: EvalSpec) -> EvalResult:
    """As `evaluate`, but each prompt has one of `edits` alone, so problems differ in it as they do in all else.

    An interval over problems then holds the spread between the edits. Raises as `apply_each` and `sample` do.
    """

    def opened(batch: Batch) -> Decoder:
        return EditedDecoder(model, edits, batch)

    traces = sample(
        model,
        eval_spec.task.problems,
        eval_spec.n_samples,
        eval_spec.decoding,
        seed=eval_spec.seed,
        batch_size=eval_spec.batch_size,
        open_rows=opened,
    )
    return judged(traces, eval_spec)


def judged(traces: Sequence[Trace], eval_spec: EvalSpec) -> EvalResult:
    """The outcome of an exam's traces, which are in the order of its problems and samples."""
    task = eval_spec.task
    problems = [problem for problem in task.problems for _ in range(eval_spec.n_samples)]
    verdicts = [task.verify(problem, trace.text) for problem, trace in zip(problems, traces, strict=True)]

    def rates(found: list[bool]) -> Float[np.ndarray, " problem"]:
        return np.array(found, dtype=np.float64).reshape(len(task.problems), eval_spec.n_samples).mean(axis=1)

    return EvalResult(
        strict=rates([verdict.strict for verdict in verdicts]),
        answer=rates([verdict.answer_correct for verdict in verdicts]),
        incoherent=rates(
            [not is_coherent(task, problem, trace) for problem, trace in zip(problems, traces, strict=True)]
        ),
    )


def is_coherent(task: Task, problem: Problem, trace: Trace) -> bool:
    """Whether a completion ended within the limit, states an answer and, where the task has a grammar, keeps to it."""
    if trace.stop == "length" or task.read_answer(trace.text) is None:
        return False
    if task.steps is None:
        return True
    spans = task.steps.spans(problem, trace.text)
    # The grammar's end mark may be written, and has no span.
    return trace.text[spans[-1].end if spans else 0 :].strip() in ("", ".")
