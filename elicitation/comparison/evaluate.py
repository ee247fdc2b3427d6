"""evaluate: how well a model does under edits, problem by problem.

So are vectors tried: `dose_sweep` at several doses, with the damage elsewhere; `transfer` on other models and skills.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from elicitation.comparison.config import ComparisonContext
from elicitation.comparison.fits import Fitted
from elicitation.pages.vectors.tables import DOSES, TRANSFERS, VECTOR_DOSES, VECTOR_TRANSFERS
from lab.metrics.bootstrap import difference_interval, interval_columns, mean_interval, resamples
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.provenance import Provenance
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import Artefact
from lab.records.tables import Schema, read_table, write_table
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding, Trace
from lab.scoring.scores import Row, by_text, foresee, pieces
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from steering.edit import Add, apply
from steering.gate import EVERYWHERE, Gate
from steering.vector import SteeringVector

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

    def sample(self, model: Model, *, seed: int) -> list[Trace]:
        """What `model` answers."""
        problems = self.task.problems
        return sample(model, problems, self.n_samples, self.decoding, seed=seed, batch_size=self.batch_size)


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
        traces = eval_spec.sample(model, seed=eval_spec.seed)
    answers = list(zip((problem for problem in task.problems for _ in range(n)), traces, strict=True))
    verdicts = [task.verify(problem, trace.text) for problem, trace in answers]
    broken = [not is_coherent(task, problem, trace.text, trace.stop) for problem, trace in answers]

    def rates(found: list[bool]) -> Float[np.ndarray, " problem"]:
        return np.array(found, dtype=np.float64).reshape(len(task.problems), n).mean(axis=1)

    return EvalResult(
        strict=rates([verdict.strict for verdict in verdicts]),
        answer=rates([verdict.answer_correct for verdict in verdicts]),
        incoherent=rates(broken),
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
    sizes = {name: getattr(study, name) for name in ("n_samples", "decoding", "batch_size")}
    return EvalSpec(task=task, seed=child_seed(study.seed, DRAWS), **sizes)


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

    def compute(work: Path, made_by: Provenance) -> None:
        table, parts = work / f"{name}.parquet", work / "parts"
        paths = {parts / f"{fitted.entry.name}.parquet": fitted for fitted in fits if fitted.vector is not None}
        if not table.exists():
            context.watch(name, 0, len(paths))
            for path, fitted in paths.items():
                if not path.exists():
                    of_fit = measure(fitted).select(pl.lit(fitted.entry.name).alias("fit"), pl.all())
                    write_table(path, of_fit, schema, made_by)
                context.watch(name, 1, len(paths))
            whole = pl.concat([schema.frame([]), *(read_table(path, schema) for path in paths)])
            write_table(table, whole, schema, made_by)
        for path in parts.glob("*"):
            path.unlink()
        if parts.exists():
            parts.rmdir()

    return context.stage(name, config, parents, compute)


def parents_of(fits: Sequence[Fitted]) -> dict[str, str]:
    """The digests of the fits."""
    return {fitted.entry.name: fitted.digest for fitted in fits}


def dose_sweep(
    model: Model,
    vector: SteeringVector,
    doses: Sequence[float],
    eval_spec: EvalSpec,
    unrelated: EvalSpec,
    *,
    where: Gate = EVERYWHERE,
    n_boot: int = 2000,
) -> pl.DataFrame:
    """`DOSES` rows: each dose of `vector` at the tokens `where`, on `eval_spec`, with the damage on `unrelated`.

    `kl` is the divergence of the steered from the plain model's next-token distribution, KL(plain || steered), at the
    tokens of the plain model's own completions of the unrelated problems: 0 for a vector that does nothing there. Doses
    draw the same random numbers, and `change` is paired by problem. Raises VectorError for no dose, and as `evaluate`.
    """
    if not doses:
        raise VectorError("a sweep over no dose: want at least one, such as 0.5, 1 and 2")
    weights, unrelated_weights = (
        resamples(len(one.task.problems), n_boot, numpy_generator(one.seed, "doses")) for one in (eval_spec, unrelated)
    )
    own = unrelated.sample(model, seed=child_seed(unrelated.seed, "unrelated"))
    plain = evaluate(model, (), eval_spec)
    rows: list[dict[str, object]] = []
    for dose in doses:
        edit = Add(vector, dose, where)
        steered = evaluate(model, (edit,), eval_spec)
        away = divergences(model, edit, own, unrelated)
        measured = [
            (name, getattr(steered, name), getattr(plain, name), weights, (0.0, 1.0))
            for name in ("strict", "answer", "incoherent")
        ]
        measured.append(("kl", away, np.zeros_like(away), unrelated_weights, (0.0, np.inf)))
        for name, under, without, drawn, bounds in measured:
            dosed = {"dose": dose, "relative_dose": relative_dose(vector) * dose, "quantity": name}
            value = interval_columns(mean_interval(under, drawn, bounds=bounds))
            change = difference_interval(under, without, drawn, bounds=bounds)
            change = interval_columns(change, "change", "change_")
            rows.append(dosed | value | change | {"n_problems": len(under)})
    return DOSES.frame(rows)


def relative_dose(vector: SteeringVector) -> float:
    """Norm of `vector` as a share of the mean residual norm, at the site where it is largest; NaN where unknown."""
    return float(np.max([vector.norms[site] / vector.residual_norms[site] for site in vector.sites]))


@torch.inference_mode()
def divergences(model: Model, edit: Add, traces: Sequence[Trace], eval_spec: EvalSpec) -> Float[np.ndarray, " problem"]:
    """KL(plain || steered) in nats a token, averaged over the tokens of each problem's `traces`."""
    prompts = {problem.id: model.prompt_ids(problem.prompt) for problem in eval_spec.task.problems}
    rows = [Row(prompts[trace.problem_id], list(trace.tokens)) for trace in traces]
    totals = dict.fromkeys(prompts, 0.0)
    n_tokens = dict.fromkeys(prompts, 0)

    def divergence(plain: Tensor, steered: Tensor, _: Tensor) -> tuple[Tensor]:
        plain, steered = plain.log_softmax(dim=-1), steered.log_softmax(dim=-1)
        return ((plain.exp() * (plain - steered)).sum(dim=-1),)

    for chosen, read in pieces(model, rows):
        plain = foresee(model, read)
        n_prompt = torch.tensor([len(row.context) for row in read.rows])
        with apply(model, edit, n_prompt=n_prompt):
            steered = foresee(model, read)
        for index, (away,) in zip(chosen, by_text(divergence, plain, steered), strict=True):
            totals[traces[index].problem_id] += float(away.sum())
            n_tokens[traces[index].problem_id] += len(away)
    # Rounding can leave a divergence of zero a little below it.
    return np.array([max(0.0, totals[key] / n_tokens[key]) for key in prompts])


def dose_stage(comparing: ComparisonContext, fits: Sequence[Fitted]) -> Artefact:
    """`doses/`: `VECTOR_DOSES` at temperature 1; damage is measured on the other task's texts, else on the task's."""
    context, doses = comparing.context, comparing.comparison.doses
    asked = spec_of(comparing, context.task)
    unrelated = replace(spec_of(comparing, context.old_task or context.task), n_samples=1)

    def swept(fitted: Fitted) -> pl.DataFrame:
        assert fitted.vector is not None, "only fits with a vector are swept"
        where, n_boot = fitted.entry.where, context.study.n_boot
        return dose_sweep(context.base, fitted.vector, doses, asked, unrelated, where=where, n_boot=n_boot)

    config = {"doses": doses, "asked": asked.plain, "unrelated": unrelated.plain}
    return fit_by_fit(comparing, "doses", VECTOR_DOSES, config, fits if doses else (), swept)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Check:
    """A place where the vector is tried."""

    name: str
    model: Model
    eval_spec: EvalSpec
    dose: float = 1.0


def transfer(
    checks: Sequence[Check],
    vector: SteeringVector,
    controls: Sequence[SteeringVector],
    *,
    where: Gate = EVERYWHERE,
    n_boot: int = 2000,
) -> pl.DataFrame:
    """`TRANSFERS` rows: each check without a vector, with `vector` at the tokens `where`, and so with `controls`, which
    share its samples.

    Every control writes n_samples / len(controls) of the completions, at least one; a control interval therefore
    holds the scatter between problems, and that between controls only as far as problems meet different ones. Raises
    VectorError for no control, and as `evaluate`.
    """
    if not controls:
        raise VectorError("a transfer check without a control proves nothing: want at least one vector of equal norm")
    rows: list[dict[str, object]] = []
    for check in checks:
        eval_spec = check.eval_spec
        n_problems = len(eval_spec.task.problems)
        weights = resamples(n_problems, n_boot, numpy_generator(eval_spec.seed, "transfer"))
        plain, steered = (evaluate(check.model, edits, eval_spec) for edits in ((), (Add(vector, check.dose, where),)))
        against = [
            evaluate(check.model, (Add(control, check.dose, where),), shared(eval_spec, index, len(controls)))
            for index, control in enumerate(controls)
        ]
        tried = {"check": check.name, "model": check.model.name, "task": eval_spec.task.name, "dose": check.dose}
        for name in ("strict", "answer"):
            without, under = getattr(plain, name), getattr(steered, name)
            control = np.mean([getattr(one, name) for one in against], axis=0)
            rates = {"plain": without, "steered": under, "control": control}
            rows.append(
                {**tried, "quantity": name, **{which: float(rate.mean()) for which, rate in rates.items()}}
                | interval_columns(difference_interval(under, without, weights), "change", "change_")
                | interval_columns(difference_interval(under, control, weights), "beyond", "beyond_")
            )
    return TRANSFERS.frame(rows)


def shared(eval_spec: EvalSpec, index: int, n_controls: int) -> EvalSpec:
    """The part of the samples that one of several controls writes, with random numbers of its own."""
    return replace(
        eval_spec,
        n_samples=max(1, eval_spec.n_samples // n_controls),
        seed=child_seed(eval_spec.seed, "control", index),
    )


N_CONTROLS = 4
"""Random vectors that share the samples of a check."""


def transfer_stage(comparing: ComparisonContext, fits: Sequence[Fitted]) -> Artefact:
    """`transfers/`: `VECTOR_TRANSFERS`: -v on the tuned model, and v on the other models that were named."""
    context = comparing.context
    asked = spec_of(comparing, context.task)
    # -v has to take the gain from the tuned model; v has to act on a base of the same kind, such as another seed's, and
    # must not help where the base has nothing to elicit.
    checks = [Check(name="removes", model=context.pair.tuned, eval_spec=asked, dose=-1.0)]
    if comparing.other_base is not None:
        checks.append(Check(name="other base", model=comparing.other_base, eval_spec=asked))
    if comparing.other_skill is not None:
        model, task = comparing.other_skill
        checks.append(Check(name="other skill", model=model, eval_spec=spec_of(comparing, task)))

    def tried(fitted: Fitted) -> pl.DataFrame:
        assert fitted.vector is not None, "only fits with a vector are tried elsewhere"
        controls = fitted.random(context.study.seed, N_CONTROLS)
        return transfer(checks, fitted.vector, controls, where=fitted.entry.where, n_boot=context.study.n_boot)

    config = {check.name: {"model": check.model.digest, "asked": check.eval_spec.plain} for check in checks}
    return fit_by_fit(comparing, "transfers", VECTOR_TRANSFERS, config, fits, tried)
