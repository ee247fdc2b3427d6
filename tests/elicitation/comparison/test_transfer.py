"""A transfer check tells a vector from its controls, on the model and task that it names."""

import numpy as np
import polars as pl
import pytest
import torch

from elicitation.comparison.evaluate import Check, EvalSpec, evaluate, shared, transfer
from elicitation.pages.vectors.tables import TRANSFERS
from lab.models.load import load
from lab.models.pair import ModelPair
from lab.models.source import LocalModel
from lab.records.errors import VectorError
from lab.sampling.trace import Decoding
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from steering.edit import Add
from steering.gate import WhileWriting
from steering.vector import SteeringVector

SITE = Site(1)


@pytest.fixture(scope="module")
def pair(checkpoints) -> ModelPair:
    base, tuned = (load(LocalModel(path=path), device=torch.device("cpu"), dtype=torch.float32) for path in checkpoints)
    return ModelPair(base=base, tuned=tuned)


@pytest.fixture(scope="module")
def eval_spec() -> EvalSpec:
    task = open_task(task_source("chain:+:1-1"), n_problems=12, seed=0)
    return EvalSpec(task=task, n_samples=4, decoding=Decoding(max_new_tokens=16))


def opener(model) -> SteeringVector:
    """Raises the T that opens a chain over the A that answers at once, by the unembedding itself."""
    rows = model.network.lm_head.weight
    chain, answer = (model.tokenizer.convert_tokens_to_ids(letter) for letter in "TA")
    direction = (rows[chain] - rows[answer]).detach()
    return SteeringVector({SITE: direction * (40 / direction.norm())}, {SITE: 4.0}, "opener")


def test_each_check_is_the_outcome_of_its_model_at_its_dose(pair, eval_spec):
    vector = opener(pair.base)
    zero = vector * 0.0
    table = transfer(
        [
            Check(name="removes", model=pair.tuned, eval_spec=eval_spec, dose=-1.0),
            Check(name="other base", model=pair.base, eval_spec=eval_spec, dose=0.5),
        ],
        vector,
        [zero],
        n_boot=200,
    )
    TRANSFERS.checked(table)
    rows = {(row["check"], row["quantity"]): row for row in table.iter_rows(named=True)}
    for name, model, dose in (("removes", pair.tuned, -1.0), ("other base", pair.base, 0.5)):
        row = rows[name, "strict"]
        plain, steered = evaluate(model, (), eval_spec).strict, evaluate(model, (Add(vector, dose),), eval_spec).strict
        assert (row["model"], row["dose"]) == (model.name, dose)
        assert row["plain"] == pytest.approx(plain.mean())
        assert row["steered"] == pytest.approx(steered.mean())
        assert row["change"] == pytest.approx(np.mean(steered - plain))
        assert row["change_low"] <= row["change"] <= row["change_high"]
    assert rows["removes", "strict"]["change"] < -0.2


def test_a_vector_that_is_its_own_control_goes_beyond_it_by_chance_only(pair, eval_spec):
    vector = opener(pair.base)
    table = transfer(
        [Check(name="other skill", model=pair.base, eval_spec=eval_spec)], vector, [vector, vector], n_boot=200
    )
    for row in table.iter_rows(named=True):
        assert row["beyond_low"] <= 0 <= row["beyond_high"]
        assert row["beyond"] == pytest.approx(row["steered"] - row["control"])


def test_without_a_control_nothing_is_said(pair, eval_spec):
    with pytest.raises(VectorError, match="without a control proves nothing"):
        transfer([Check(name="other skill", model=pair.base, eval_spec=eval_spec)], opener(pair.base), [])


def test_a_gate_goes_to_the_vector_and_to_its_controls(pair, eval_spec):
    vector, first = opener(pair.base), WhileWriting((0,))
    table = transfer(
        [Check(name="other base", model=pair.base, eval_spec=eval_spec)], vector, [vector], where=first, n_boot=200
    )
    row = table.filter(pl.col("quantity") == "answer").row(0, named=True)
    assert row["steered"] == pytest.approx(evaluate(pair.base, (Add(vector, 1.0, first),), eval_spec).answer.mean())
    assert row["control"] == pytest.approx(
        evaluate(pair.base, (Add(vector, 1.0, first),), shared(eval_spec, 0, 1)).answer.mean()
    )
