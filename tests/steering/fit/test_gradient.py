"""The fitted vector makes its targets likely, also in contexts it has not seen, and leaves the model as it was."""

from dataclasses import replace

import pytest
import torch

from lab.errors import VectorError
from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.seeds import torch_generator
from probes.capture import capture
from probes.site import Site, hook_site
from steering.fit.gradient import Decisions, GradientFit, fit_gradient, target_loss

SITE = Site(0)
FIT = GradientFit(n_steps=40, batch_size=8, learning_rate=0.3, max_dose=2.0)
FAMILIES = ["llama", "gemma2", "gpt2"]


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


@pytest.fixture
def llama() -> Model:
    return tiny_model("llama", seed=5)


def decisions(model, prompts, target=65) -> Decisions:
    """In every context, `target` should have been written."""
    padded = model.tokenizer(prompts, return_tensors="pt", padding=True)
    return Decisions(padded.input_ids, padded.attention_mask.bool(), torch.full((len(prompts),), target))


def seen(model) -> Decisions:
    return decisions(model, [f"{index}+{7 * index}=" for index in range(12)])


def held(model) -> Decisions:
    return decisions(model, [f"{index}-{3 * index}=" for index in range(20, 28)])


def fitted(model, fit=FIT, seed=0):
    return fit_gradient(model, SITE, seen(model), fit, torch_generator(seed, "fit"), how="test")


@torch.no_grad()
def loss_with(model, vector, decided) -> float:
    """The loss with the vector added at the last position only."""

    def add(stream):
        edited = stream.clone()
        edited[:, -1] += vector.directions[SITE]
        return edited

    handle = hook_site(model, SITE, add)
    try:
        return float(target_loss(model, decided, torch.arange(len(decided.targets))))
    finally:
        handle.remove()


@torch.no_grad()
def test_the_loss_is_the_mean_cross_entropy_of_the_targets_one_context_at_a_time(model):
    decided = held(model)
    alone = [
        -float(model.network(row[mask][None]).logits[0, -1].log_softmax(-1)[target])
        for row, mask, target in zip(*decided, strict=True)
    ]
    came = float(target_loss(model, decided, torch.arange(len(alone))))
    assert came == pytest.approx(sum(alone) / len(alone), abs=1e-4)


def test_it_lowers_the_loss_on_contexts_it_was_not_fitted_on(model):
    vector = fitted(model)
    for decided, share in ((seen(model), 0.5), (held(model), 0.8)):
        assert loss_with(model, vector, decided) < share * loss_with(model, vector * 0.0, decided)


def test_while_fitting_the_vector_acts_at_the_last_position_of_a_context_alone(llama):
    streams = []
    handle = hook_site(llama, Site(1, "resid_pre"), lambda stream: streams.append(stream.detach().clone()))
    fit_gradient(llama, SITE, decisions(llama, ["2+2="]), replace(FIT, n_steps=3), torch_generator(0), how="")
    handle.remove()
    # Three passes under the vector, which starts at zero.
    plain, *moved = streams[-3:]
    for stream in moved:
        assert torch.equal(stream[:, :-1], plain[:, :-1])
        assert not torch.equal(stream[:, -1], plain[:, -1])


def test_no_norm_exceeds_the_largest_dose(model):
    decided = seen(model)
    scale = float(capture(model, decided.tokens, decided.mask, [SITE])[SITE][:, -1].norm(dim=-1).mean())
    capped = fitted(model, replace(FIT, max_dose=0.1))
    assert capped.residual_norms[SITE] == pytest.approx(scale, rel=1e-5)
    assert capped.norms[SITE] <= 0.1 * scale * (1 + 1e-5)
    assert capped.norms[SITE] == pytest.approx(0.1 * scale, rel=0.05)


def test_the_model_is_left_as_it_was(model):
    weights = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    fitted(model)
    after = model.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in weights.items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.network.parameters())
    assert sum(len(module._forward_hooks) for module in model.network.modules()) == 0


def test_one_seed_gives_one_vector_bit_for_bit_and_another_seed_another(llama):
    first = fitted(llama)
    assert fitted(llama) == first
    assert fitted(llama, seed=1) != first


def test_contexts_of_unequal_length_and_their_order_change_the_scale_only_by_rounding(llama):
    prompts = ["=", "1+1=", "a rather longer context ends here ="]
    shuffled = [prompts[2], prompts[0], prompts[1]]
    scales = [
        fit_gradient(llama, SITE, decisions(llama, given), replace(FIT, n_steps=1), torch_generator(0), how="")
        for given in (prompts, shuffled)
    ]
    alone = [
        capture(llama, torch.tensor([list(prompt.encode())]), torch.ones(1, len(prompt)).bool(), [SITE])[SITE][0, -1]
        for prompt in prompts
    ]
    wanted = sum(float(stream.norm()) for stream in alone) / 3
    for vector in scales:
        assert vector.residual_norms[SITE] == pytest.approx(wanted, rel=1e-5)


def test_the_scale_does_not_depend_on_how_many_contexts_are_read_at_once(llama):
    few, many = (fitted(llama, replace(FIT, n_steps=1, batch_size=size)) for size in (5, 12))
    assert few.residual_norms[SITE] == pytest.approx(many.residual_norms[SITE], rel=1e-6)


def test_no_pass_reads_more_contexts_than_a_batch(llama):
    sizes = []
    handle = llama.network.register_forward_pre_hook(
        lambda _module, _args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    fitted(llama, replace(FIT, n_steps=2, batch_size=5))
    handle.remove()
    assert max(sizes) == 5


def test_nothing_to_learn_from_is_refused(llama):
    empty = Decisions(torch.zeros(0, 3).long(), torch.ones(0, 3).bool(), torch.zeros(0).long())
    with pytest.raises(VectorError, match="no decision to fit a vector on"):
        fit_gradient(llama, SITE, empty, FIT, torch_generator(0), how="")


def test_a_loss_that_is_not_finite_is_refused_and_leaves_no_hook(llama):
    llama.network.lm_head.weight[7] = float("nan")
    with pytest.raises(VectorError, match="the loss became nan: lower the learning rate"):
        fitted(llama)
    assert sum(len(module._forward_hooks) for module in llama.network.modules()) == 0


def test_gradients_work_also_where_the_caller_has_them_off(llama):
    wanted = fitted(llama)
    with torch.no_grad():
        assert fitted(llama) == wanted
