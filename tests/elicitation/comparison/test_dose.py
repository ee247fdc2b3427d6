"""A dose sweep measures what is wanted beside the damage, and no dose does nothing."""

import math

import numpy as np
import polars as pl
import pytest
import torch

from elicitation.comparison.evaluate import EvalSpec, divergences, dose_sweep, evaluate, is_coherent, relative_dose
from elicitation.pages.vectors.tables import DOSES
from lab.models.load import load
from lab.models.source import LocalModel
from lab.records.errors import VectorError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site, hook_site
from steering.edit import Add, apply
from steering.gate import WhileWriting
from steering.vector import SteeringVector

SITE = Site(0)


@pytest.fixture(scope="module")
def model(checkpoints):
    return load(LocalModel(path=checkpoints.base), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def eval_spec() -> EvalSpec:
    task = open_task(task_source("chain:+:1-1"), n_problems=10, seed=0)
    return EvalSpec(task=task, n_samples=4, decoding=Decoding(max_new_tokens=16))


def vector(model, scale=1.0) -> SteeringVector:
    direction = torch.randn(model.anatomy.d_model, generator=torch.Generator().manual_seed(1))
    return SteeringVector({SITE: direction * (scale / direction.norm())}, {SITE: 4.0}, "random")


def test_a_dose_of_zero_changes_nothing_and_a_large_one_breaks_everything(model, eval_spec):
    table = dose_sweep(model, vector(model), [0.0, 200.0], eval_spec, eval_spec, n_boot=200)
    DOSES.checked(table)
    rows = {(row["dose"], row["quantity"]): row for row in table.iter_rows(named=True)}
    for quantity in ("strict", "answer", "incoherent", "kl"):
        assert rows[0.0, quantity]["change"] == 0
    assert rows[0.0, "kl"]["value"] == 0
    assert rows[200.0, "kl"]["value"] > 1
    assert rows[200.0, "incoherent"]["value"] > 0.5
    assert rows[200.0, "answer"]["change"] < 0
    assert rows[200.0, "kl"]["relative_dose"] == pytest.approx(50)
    low, high = (rows[200.0, "incoherent"][end] for end in ("low", "high"))
    assert low <= rows[200.0, "incoherent"]["value"] <= high


def test_accuracies_are_those_of_samples_under_the_vector(model, eval_spec):
    edit = Add(vector(model), 3.0)
    with apply(model, edit):
        traces = sample(model, eval_spec.task.problems, 4, eval_spec.decoding, seed=eval_spec.seed)
    by_id = {problem.id: problem for problem in eval_spec.task.problems}
    strict = [eval_spec.task.verify(by_id[trace.problem_id], trace.text).strict for trace in traces]
    came = evaluate(model, (edit,), eval_spec)
    assert came.strict.tolist() == np.array(strict, dtype=float).reshape(-1, 4).mean(axis=1).tolist()


@torch.no_grad()
def test_the_divergence_is_that_of_whole_distributions_one_token_at_a_time(model, eval_spec):
    edit = Add(vector(model), 2.0)
    traces = sample(model, eval_spec.task.problems, 1, eval_spec.decoding, seed=3)
    wanted = []
    for problem, trace in zip(eval_spec.task.problems, traces, strict=True):
        prompt = model.tokenizer(problem.prompt).input_ids
        ids = torch.tensor([prompt + list(trace.tokens)])
        plain = model.network(ids).logits[0].double().log_softmax(-1)
        with apply(model, edit):
            steered = model.network(ids).logits[0].double().log_softmax(-1)
        away = (plain.exp() * (plain - steered)).sum(-1)
        wanted.append(float(away[len(prompt) - 1 : -1].mean()))
    np.testing.assert_allclose(divergences(model, edit, traces, eval_spec), wanted, rtol=1e-3, atol=1e-5)


def test_the_relative_dose_is_the_largest_of_its_sites_and_nan_where_unknown():
    two = {SITE: torch.tensor([3.0, 4.0]), Site(1): torch.tensor([0.0, 1.0])}
    assert relative_dose(SteeringVector(two, {SITE: 10.0, Site(1): 4.0}, "")) == pytest.approx(0.5)
    assert math.isnan(relative_dose(SteeringVector(two, {SITE: math.nan, Site(1): 4.0}, "")))


def test_coherent_is_what_ends_answers_and_keeps_to_the_grammar(model, eval_spec):
    problem = eval_spec.task.problems[0]

    def coherent(text, stop="eos") -> bool:
        return is_coherent(eval_spec.task, problem, text, stop)

    assert coherent("A4") and coherent("A4.") and coherent("T1+2=3;A3")  # noqa: PT018 -- one list of readable texts
    assert not coherent("A4", stop="length")
    assert not coherent("T1+2=3;")
    assert not coherent("A4+")


def test_a_sweep_over_no_dose_is_refused(model, eval_spec):
    with pytest.raises(VectorError, match="want at least one"):
        dose_sweep(model, vector(model), [], eval_spec, eval_spec)


def test_every_dose_has_one_row_a_quantity(model, eval_spec):
    table = dose_sweep(model, vector(model), [0.5, 1.0], eval_spec, eval_spec, n_boot=200)
    assert table.height == 8
    assert table.filter(pl.col("dose") == 0.5)["quantity"].to_list() == ["strict", "answer", "incoherent", "kl"]


@torch.no_grad()
def test_a_vector_at_the_first_token_moves_what_follows_only_through_the_prompts_last_position(model, eval_spec):
    edit = Add(vector(model), 3.0, WhileWriting((0,)))
    traces = sample(model, eval_spec.task.problems, 1, eval_spec.decoding, seed=3)
    wanted = []
    for problem, trace in zip(eval_spec.task.problems, traces, strict=True):
        prompt = model.tokenizer(problem.prompt).input_ids
        ids = torch.tensor([prompt + list(trace.tokens)])
        plain = model.network(ids).logits[0].double().log_softmax(-1)
        shift = torch.zeros(1, ids.shape[1], 1)
        shift[0, len(prompt) - 1] = 3.0
        handle = hook_site(model, SITE, lambda stream, shift=shift: stream + shift * vector(model).directions[SITE])
        steered = model.network(ids).logits[0].double().log_softmax(-1)
        handle.remove()
        away = (plain.exp() * (plain - steered)).sum(-1)
        wanted.append(float(away[len(prompt) - 1 : -1].mean()))
    np.testing.assert_allclose(divergences(model, edit, traces, eval_spec), wanted, rtol=1e-3, atol=1e-5)
    assert min(wanted) > 0


def test_a_sweep_is_of_the_tokens_that_it_is_asked_for(model, eval_spec):
    first = WhileWriting((0,))
    table = dose_sweep(model, vector(model), [2.0], eval_spec, eval_spec, where=first, n_boot=200)
    came = evaluate(model, (Add(vector(model), 2.0, first),), eval_spec)
    strict = table.filter(pl.col("quantity") == "strict")["value"][0]
    assert strict == pytest.approx(came.strict.mean())
