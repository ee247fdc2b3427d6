"""Each prompt is read and continued under its own edit, exactly as if `apply` had put in that edit alone."""

import numpy as np
import pytest
import torch

from elicitation.comparison.evaluate import EvalSpec, chosen_edits, evaluate, evaluate_by_prompt
from lab.models.load import load
from lab.models.source import LocalModel
from lab.sampling.decoding import Decoding
from lab.sampling.sample import Request, make_batch
from lab.tasks.source import open_task, task_source
from probes.capture.site import Site
from steering.edit import Add
from steering.gate import EVERYWHERE, WhileWriting
from steering.vector import SteeringVector

SITE = Site(0)


@pytest.fixture(scope="module")
def model(checkpoints):
    return load(LocalModel(path=checkpoints.base), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def eval_spec() -> EvalSpec:
    task = open_task(task_source("chain:+:1-1"), n_problems=12, seed=0)
    return EvalSpec(task=task, n_samples=3, decoding=Decoding(max_new_tokens=12), batch_size=7)


def drawn(model, n: int, where) -> list[Add]:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(n, model.anatomy.d_model, generator=generator)
    return [Add(SteeringVector({SITE: direction}, {SITE: 4.0}, "random"), 2.0, where) for direction in noise]


def chosen(model, problems, n: int) -> list[int]:
    prompts = [problem.prompt for problem in problems]
    ids = [model.tokenizer(prompt).input_ids for prompt in prompts]
    requests = [Request(problem, 0) for problem in problems]
    return chosen_edits(make_batch(model, ids, requests, prompts, 0), n).tolist()


@pytest.mark.parametrize("where", [EVERYWHERE, WhileWriting((0,))], ids=["every token", "first token"])
def test_each_problem_does_as_it_does_under_its_own_edit(model, eval_spec, where):
    edits = drawn(model, 3, where)
    found = evaluate_by_prompt(model, edits, eval_spec)
    alone = [evaluate(model, (edit,), eval_spec) for edit in edits]
    which = chosen(model, eval_spec.task.problems, 3)
    assert len(set(which)) == 3
    for name in ("strict", "answer", "incoherent"):
        wanted = [getattr(alone[edit], name)[index] for index, edit in enumerate(which)]
        np.testing.assert_array_equal(getattr(found, name), wanted)


def test_a_prompt_keeps_its_edit_in_another_batch_and_order(model, eval_spec):
    problems = eval_spec.task.problems
    forwards = chosen(model, problems, 256)
    assert chosen(model, problems[::-1], 256) == forwards[::-1]
    assert chosen(model, problems[4:6], 256) == forwards[4:6]
