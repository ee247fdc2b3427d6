"""transfer: whether a vector acts where it should, and nowhere else: other models, other skills, and backwards."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from jaxtyping import Int

from elicitation.comparison.config import ComparisonContext
from elicitation.comparison.evaluate import EvalResult, EvalSpec, evaluate, fit_by_fit, spec_of
from elicitation.comparison.fits import Fitted
from elicitation.pages.vectors.tables import TRANSFERS, VECTOR_TRANSFERS
from lab.metrics.bootstrap import difference_interval, interval_columns, resamples
from lab.models.load import Model
from lab.records.errors import VectorError
from lab.records.seeds import child_seed, numpy_generator
from lab.records.stage import Artefact
from steering.edit import Add
from steering.gate import EVERYWHERE, Gate
from steering.vector import SteeringVector


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
        for name in ("strict", "answer"):
            rows.append(described(check, name, plain, steered, against, weights))
    return TRANSFERS.frame(rows)


def shared(eval_spec: EvalSpec, index: int, n_controls: int) -> EvalSpec:
    """The part of the samples that one of several controls writes, with random numbers of its own."""
    return replace(
        eval_spec,
        n_samples=max(1, eval_spec.n_samples // n_controls),
        seed=child_seed(eval_spec.seed, "control", index),
    )


def described(
    check: Check,
    quantity: str,
    plain: EvalResult,
    steered: EvalResult,
    against: Sequence[EvalResult],
    weights: Int[np.ndarray, "boot _problem"],
) -> dict[str, object]:
    """A `TRANSFERS` row."""
    without, under = getattr(plain, quantity), getattr(steered, quantity)
    control = np.mean([getattr(one, quantity) for one in against], axis=0)
    change = difference_interval(under, without, weights)
    beyond = difference_interval(under, control, weights)
    named = {
        "check": check.name,
        "model": check.model.name,
        "task": check.eval_spec.task.name,
        "dose": check.dose,
        "quantity": quantity,
        "plain": float(without.mean()),
        "steered": float(under.mean()),
        "control": float(control.mean()),
    }
    return named | interval_columns(change, "change", "change_") | interval_columns(beyond, "beyond", "beyond_")


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
