"""dose_sweep: what a vector does at several doses, to the accuracy that is wanted and to all the rest."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor

from elicitation.comparison.config import ComparisonContext
from elicitation.comparison.evaluate import EvalSpec, evaluate, fit_by_fit, spec_of
from elicitation.comparison.fits import Fitted
from elicitation.pages.vectors.tables import DOSES, VECTOR_DOSES
from lab.metrics.bootstrap import difference_interval, interval_columns, mean_interval, resamples
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import Artefact
from lab.sampling.sample import sample
from lab.sampling.trace import Trace
from lab.scoring.scores import Row, completion_logits, pieces
from steering.edit import Add, apply
from steering.gate import EVERYWHERE, Gate
from steering.vector import SteeringVector


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
    own = sample(
        model,
        unrelated.task.problems,
        unrelated.n_samples,
        unrelated.decoding,
        seed=child_seed(unrelated.seed, "unrelated"),
        batch_size=unrelated.batch_size,
    )
    plain = evaluate(model, (), eval_spec)
    rows: list[dict[str, object]] = []
    for dose in doses:
        edit = Add(vector, dose, where)
        steered = evaluate(model, (edit,), eval_spec)
        away = divergences(model, edit, own, unrelated)
        measured = {
            name: (getattr(steered, name), getattr(plain, name), weights, (0.0, 1.0))
            for name in ("strict", "answer", "incoherent")
        } | {"kl": (away, np.zeros_like(away), unrelated_weights, (0.0, np.inf))}
        rows += [
            {"dose": dose, "relative_dose": relative_dose(vector) * dose, "quantity": name, **summary(*given)}
            for name, given in measured.items()
        ]
    return DOSES.frame(rows)


def relative_dose(vector: SteeringVector) -> float:
    """Norm of `vector` as a share of the mean residual norm, at the site where it is largest; NaN where unknown."""
    return float(np.max([vector.norms[site] / vector.residual_norms[site] for site in vector.sites]))


def summary(
    steered: Float[np.ndarray, " problem"],
    plain: Float[np.ndarray, " problem"],
    weights: Int[np.ndarray, "boot _problem"],
    bounds: tuple[float, float],
) -> dict[str, object]:
    """The last columns of a `DOSES` row."""
    value = interval_columns(mean_interval(steered, weights, bounds=bounds))
    change = difference_interval(steered, plain, weights, bounds=bounds)
    return value | interval_columns(change, "change", "change_") | {"n_problems": len(steered)}


@torch.inference_mode()
def divergences(model: Model, edit: Add, traces: Sequence[Trace], eval_spec: EvalSpec) -> Float[np.ndarray, " problem"]:
    """KL(plain || steered) in nats a token, averaged over the tokens of each problem's `traces`."""
    prompts = {problem.id: model.tokenizer(problem.prompt).input_ids for problem in eval_spec.task.problems}
    rows = [Row(prompts[trace.problem_id], list(trace.tokens)) for trace in traces]
    totals = dict.fromkeys(prompts, 0.0)
    n_tokens = dict.fromkeys(prompts, 0)
    for chosen, read in pieces(model, rows):
        plain = completion_logits(model, read).float().log_softmax(dim=-1)
        n_prompt = torch.tensor([len(row.context) for row in read.rows])
        with apply(model, edit, n_prompt=n_prompt):
            steered = completion_logits(model, read).float().log_softmax(dim=-1)
        away: Float[Tensor, "text kept"] = (plain.exp() * (plain - steered)).sum(dim=-1)
        for place, index in enumerate(chosen):
            n = len(rows[index].completion)
            totals[traces[index].problem_id] += float(away[place, -n:].sum())
            n_tokens[traces[index].problem_id] += n
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
