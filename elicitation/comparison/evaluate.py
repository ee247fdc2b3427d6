"""evaluate: how well a model does under edits, problem by problem."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from jaxtyping import Float

from elicitation.comparison.config import ComparisonContext
from elicitation.comparison.fits import Fitted
from lab.models.load import Model
from lab.records.seeds import child_seed
from lab.records.stage import Artefact, memoised
from lab.records.tables import Schema, read_table, write_table
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from steering.edit import Add, apply

DRAWS = "exam"
"""Name of the random numbers that answers to held-out problems draw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSpec:
    """What is asked, and how it is answered. Results of one spec are paired: they draw the same random numbers."""

    task: Task
    n_samples: int = 8
    """Completions of each problem."""
    decoding: Decoding = field(default_factory=Decoding)
    seed: int = 0
    batch_size: int = 256

    @property
    def plain(self) -> dict[str, object]:
        """The same without its functions, which have no canonical form."""
        return {
            "task": self.task.name,
            "problems": [problem.id for problem in self.task.problems],
            "n_samples": self.n_samples,
            "decoding": self.decoding,
            "seed": self.seed,
        }


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
    task, n = eval_spec.task, eval_spec.n_samples
    with apply(model, *edits):
        traces = sample(
            model, task.problems, n, eval_spec.decoding, seed=eval_spec.seed, batch_size=eval_spec.batch_size
        )
    problems = [problem for problem in task.problems for _ in range(n)]
    verdicts = [task.verify(problem, trace.text) for problem, trace in zip(problems, traces, strict=True)]
    coherent = [
        is_coherent(task, problem, trace.text, trace.stop) for problem, trace in zip(problems, traces, strict=True)
    ]

    def rates(found: list[bool]) -> Float[np.ndarray, " problem"]:
        return np.array(found, dtype=np.float64).reshape(len(task.problems), n).mean(axis=1)

    return EvalResult(
        strict=rates([verdict.strict for verdict in verdicts]),
        answer=rates([verdict.answer_correct for verdict in verdicts]),
        incoherent=rates([not one for one in coherent]),
    )


def is_coherent(task: Task, problem: Problem, text: str, stop: str) -> bool:
    """Whether a completion ended within the limit, states an answer and, where the task has a grammar, keeps to it."""
    if stop == "length" or task.read_answer(text) is None:
        return False
    if task.steps is None:
        return True
    spans = task.steps.spans(problem, text)
    # The grammar's end mark may be written, and has no span.
    return text[spans[-1].end if spans else 0 :].strip() in ("", ".")


def spec_of(comparing: ComparisonContext, task: Task) -> EvalSpec:
    """How the arms of a comparison are sampled, for `task`."""
    study = comparing.context.study
    return EvalSpec(
        task=task,
        n_samples=study.n_samples,
        decoding=study.decoding,
        seed=child_seed(study.seed, DRAWS),
        batch_size=study.batch_size,
    )


def fit_by_fit(
    comparing: ComparisonContext,
    name: str,
    schema: Schema,
    config: object,
    fits: Sequence[Fitted],
    measure: Callable[[Fitted], pl.DataFrame],
) -> Artefact:
    """The stage `name/`: one table of what is measured of every fit that has a vector; whole fits survive a kill."""
    context, parents = comparing.context, {"base": comparing.context.base.digest} | parents_of(fits)

    def compute(work: Path) -> None:
        made_by = context.made_by(name, config, parents)
        table, parts = work / f"{name}.parquet", work / "parts"
        paths = {parts / f"{fitted.entry.name}.parquet": fitted for fitted in fits if fitted.vector is not None}
        if not table.exists():
            context.watch(name, 0, len(paths))
            for path, fitted in paths.items():
                if not path.exists():
                    of_fit = measure(fitted).select(pl.lit(fitted.entry.name).alias("fit"), pl.all())
                    write_table(path, of_fit, schema, made_by)
                context.watch(name, 1, len(paths))
            write_table(
                table, pl.concat([schema.frame([]), *(read_table(path, schema) for path in paths)]), schema, made_by
            )
        for path in parts.glob("*"):
            path.unlink()
        if parts.exists():
            parts.rmdir()

    return memoised(context.out, name, config, parents, compute)


def parents_of(fits: Sequence[Fitted]) -> dict[str, str]:
    """The digests of the fits."""
    return {fitted.entry.name: fitted.digest for fitted in fits}
