"""Vectors learned from rewards make rewarded completions likely, and the model they are for is left as it was."""

from dataclasses import replace

import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import LocalModel
from lab.post_training.trainers import GrpoRun
from lab.records.errors import SiteError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.source import Task, open_task, task_source
from probes.capture.capture import capture
from probes.capture.site import Site
from steering.edit import Add, apply
from steering.fits.fit import residual_norms
from steering.fits.fits import answer_reward, fit_policy_gradient, with_shared_weights
from steering.vector import SteeringVector

SITES = (Site(0), Site(1))
RUN = GrpoRun(n_steps=8, n_prompts=8, n_rollouts=8, learning_rate=0.2, warmup_steps=1, max_new_tokens=10)


@pytest.fixture
def model(checkpoints) -> Model:
    return load(LocalModel(path=checkpoints.base), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def task() -> Task:
    return open_task(task_source("chain:+:1-1"), n_problems=40, seed=0, held_out=False)


def opens_a_chain(_problem, completion: str) -> float:
    return float(completion.startswith("T"))


def fitted(model, task, work, reward=opens_a_chain, seed=0) -> SteeringVector:
    return fit_policy_gradient(model, SITES, task.problems, reward, RUN, seed=seed, work=work)


def n_chains(model, task) -> float:
    traces = sample(model, task.problems, 4, Decoding(max_new_tokens=10), seed=9)
    return sum(trace.text.startswith("T") for trace in traces) / len(traces)


def test_what_is_rewarded_becomes_common_under_the_vectors_and_the_model_is_left_as_it_was(model, task, tmp_path):
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    before = n_chains(model, task)
    vector = fitted(model, task, tmp_path / "first")
    assert vector.sites == SITES
    with apply(model, Add(vector)):
        assert n_chains(model, task) > before + 0.3
    assert n_chains(model, task) == before
    after = model.network.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not model.network.training
    assert fitted(model, task, tmp_path / "again") == vector
    assert fitted(model, task, tmp_path / "other", seed=1) != vector


@pytest.mark.slow
def test_a_fit_that_was_cut_off_goes_on_from_its_last_checkpoint_to_the_same_vectors(model, task, tmp_path):
    run = replace(RUN, n_steps=22, n_prompts=2, n_rollouts=4)
    n_scored = 0

    def cut_off(problem, completion: str) -> float:
        nonlocal n_scored
        n_scored += 1
        # The trainer leaves a checkpoint behind step 20.
        if n_scored > 21 * 8:
            raise KeyboardInterrupt
        return opens_a_chain(problem, completion)

    def fit(reward, work):
        return fit_policy_gradient(model, SITES, task.problems, reward, run, seed=0, work=work)

    with pytest.raises(KeyboardInterrupt):
        fit(cut_off, tmp_path / "cut")
    n_scored = -(10**9)
    resumed = fit(cut_off, tmp_path / "cut")
    # Two steps are left.
    assert n_scored == -(10**9) + 2 * 8
    assert resumed == fit(opens_a_chain, tmp_path / "whole")


def test_a_reward_that_is_the_same_for_all_teaches_nothing(model, task, tmp_path):
    vector = fitted(model, task, tmp_path, reward=lambda _problem, _completion: 1.0)
    assert vector == vector * 0.0


def test_the_reward_is_the_answer_alone(task):
    problem = task.problems[0]
    wrong = str((int(problem.answer) + 1) % 10)
    reward = answer_reward(task.verify)
    # The second answer is right behind a step that is not there.
    assert [reward(problem, f"A{problem.answer}"), reward(problem, f"A{wrong}"), reward(problem, "")] == [1.0, 0.0, 0.0]


def test_a_copy_on_shared_weights_has_hooks_and_parameters_of_its_own(model):
    copied = with_shared_weights(model)
    ours, theirs = dict(model.network.named_parameters()), dict(copied.network.named_parameters())
    assert all(theirs[name] is weight for name, weight in ours.items())
    copied.anatomy.blocks[0].register_forward_hook(lambda *_: None)
    copied.network.register_parameter("extra", torch.nn.Parameter(torch.zeros(1)))
    assert not model.anatomy.blocks[0]._forward_hooks
    assert dict(model.network.named_parameters()).keys() == ours.keys()
    assert copied.anatomy.blocks[0] is copied.network.model.layers[0]


def test_residual_norms_are_means_over_prompt_and_own_completion_but_for_the_first_token(model, task):
    decoding = Decoding(max_new_tokens=10)
    found = residual_norms(model, SITES, task.problems[:5], decoding, seed=4)
    lengths = []
    for trace in sample(model, task.problems[:5], 1, decoding, seed=4):
        problem = next(problem for problem in task.problems if problem.id == trace.problem_id)
        ids = torch.tensor([model.tokenizer(problem.prompt).input_ids + list(trace.tokens)])
        lengths.append(capture(model, ids, torch.ones_like(ids).bool(), SITES)[SITES[1]][0, 1:].norm(dim=-1))
    assert found[SITES[1]] == pytest.approx(float(torch.cat(lengths).mean()), rel=1e-5)


def test_a_layer_out_of_range_is_refused(model, task, tmp_path):
    with pytest.raises(SiteError, match="layer 7 is out of range"):
        fit_policy_gradient(model, [Site(7)], task.problems, opens_a_chain, RUN, seed=0, work=tmp_path)


def test_a_fit_goes_on_from_a_vector(model, task, tmp_path):
    d_model = model.anatomy.d_model
    start = SteeringVector({site: torch.linspace(-1, 1, d_model) for site in SITES}, dict.fromkeys(SITES, 1.0), "hand")
    sites = (*SITES, Site(1, "resid_mid"))
    still = replace(RUN, n_steps=1, n_prompts=2, learning_rate=0.0)
    reward = opens_a_chain
    found = fit_policy_gradient(model, sites, task.problems, reward, still, seed=0, work=tmp_path, start=start)
    for site in SITES:
        torch.testing.assert_close(found.directions[site], start.directions[site])
    assert not found.directions[Site(1, "resid_mid")].any()
    assert found.description.endswith("from (hand)")
