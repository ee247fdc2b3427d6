"""The fitted vector makes its targets likely, also in contexts it has not seen, and leaves the model as it was."""

from dataclasses import replace

import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.capture import capture
from probes.capture.site import Site, hook_site
from steering.edit import Add, apply
from steering.fits.fit import Completions, Disagreements, listed
from steering.fits.gradient import Category, GradientFit, fit_gradient, fit_gradients, read_examples
from tests.kinds import one_always

SITE = Site(0)
FIT = GradientFit(n_steps=40, batch_size=8, learning_rate=0.3, max_dose=2.0)
FAMILIES = ["llama", "gemma2", "gpt2"]


@pytest.fixture(scope="module", params=one_always(FAMILIES))
def model(request) -> Model:
    return tiny_model(request.param, seed=5)


@pytest.fixture
def llama() -> Model:
    return tiny_model("llama", seed=5)


def disagreements(model, prompts, target=65) -> Disagreements:
    """In every context, `target` should have been written."""
    padded = model.tokenizer(prompts, return_tensors="pt", padding=True)
    return Disagreements(padded.input_ids, padded.attention_mask.bool(), torch.full((len(prompts),), target))


def seen(model) -> Disagreements:
    return disagreements(model, [f"{index}+{7 * index}=" for index in range(12)])


def held(model) -> Disagreements:
    return disagreements(model, [f"{index}-{3 * index}=" for index in range(20, 28)])


def fitted(model, fit=FIT, seed=0):
    return fit_gradient(model, SITE, seen(model), fit, torch_generator(seed, "fit"), description="test")


def slow_loss(model, direction, decided, rows) -> torch.Tensor:
    """The loss by whole passes of the network, one context at a time, with the direction added at the last position."""

    def add(stream):
        edited = stream.clone()
        edited[:, -1] += direction
        return edited

    handle = hook_site(model, SITE, add)
    try:
        losses = [
            -model.network(decided.tokens[row][decided.mask[row]][None])
            .logits[0, -1]
            .log_softmax(-1)[decided.targets[row]]
            for row in rows
        ]
    finally:
        handle.remove()
    return torch.stack(losses).mean()


@torch.no_grad()
def loss_with(model, vector, decided) -> float:
    return float(slow_loss(model, vector.directions[SITE], decided, range(len(decided.targets))))


def test_it_lowers_the_loss_on_contexts_it_was_not_fitted_on(model):
    vector = fitted(model)
    for decided, share in ((seen(model), 0.5), (held(model), 0.8)):
        assert loss_with(model, vector, decided) < share * loss_with(model, vector * 0.0, decided)


def test_the_vector_is_that_of_whole_passes_of_the_network(model):
    decided = seen(model)
    generator, fit = torch_generator(0, "fit"), replace(FIT, n_steps=6, max_dose=0.4)
    scale = fitted(model, fit).residual_norms[SITE]
    direction = torch.zeros(model.anatomy.d_model, requires_grad=True)
    optimiser = torch.optim.Adam([direction], lr=fit.learning_rate * scale / model.anatomy.d_model**0.5)
    for _ in range(fit.n_steps):
        optimiser.zero_grad()
        slow_loss(model, direction, decided, torch.randint(12, (8,), generator=generator)).backward()
        optimiser.step()
        with torch.no_grad():
            direction *= min(1.0, 0.4 * scale / float(direction.norm()))
    # Adam divides by the gradient's size, so that rounding of a small entry is seen.
    torch.testing.assert_close(fitted(model, fit).directions[SITE], direction.detach(), atol=2e-3 * scale, rtol=0)


def completions(model, prompt, completion) -> Completions:
    padded = model.tokenizer([prompt + completion, "9" + prompt + completion], return_tensors="pt", padding=True)
    return Completions(padded.input_ids, padded.attention_mask.bool(), torch.tensor([len(completion)] * 2))


def test_a_fit_on_completions_makes_them_likely_with_the_vector_at_every_token(model):
    texts = completions(model, "1+1=", "two;")

    @torch.no_grad()
    def loss(vector) -> float:
        losses = []
        with apply(model, Add(vector)):
            for row, mask in zip(texts.tokens, texts.mask, strict=True):
                ids = row[mask]
                logprobs = model.network(ids[None]).logits[0].log_softmax(-1)
                losses += [-float(logprobs[place - 1, ids[place]]) for place in range(len(ids) - 4, len(ids))]
        return sum(losses) / len(losses)

    vector = fit_gradient(model, SITE, texts, FIT, torch_generator(0), description="")
    assert loss(vector) < 0.8 * loss(vector * 0.0)
    # The same loss as the fit's own, which holds texts out to say what it reached.
    likelihood = read_examples(model, SITE, listed(texts), batch_size=1)
    with torch.no_grad():
        own = likelihood.losses(torch.arange(2), vector.directions[SITE].expand(2, -1))
    assert float(own.sum()) / likelihood.n_targets(torch.arange(2)) == pytest.approx(loss(vector), rel=1e-4)


def test_the_vectors_of_a_table_are_those_of_fits_of_their_own(model):
    parts = {"low": seen(model), "high": held(model), "words": completions(model, "1+1=", "two;")}
    table = {
        name: Category(examples=part, generator=torch_generator(0, name), description=name)
        for name, part in parts.items()
    }
    together = fit_gradients(model, SITE, table, replace(FIT, n_steps=5))
    assert list(together) == list(parts)
    for name, part in parts.items():
        alone = fit_gradient(model, SITE, part, replace(FIT, n_steps=5), torch_generator(0, name), description=name)
        scale = alone.residual_norms[SITE]
        assert together[name].residual_norms[SITE] == pytest.approx(scale, rel=1e-5)
        torch.testing.assert_close(together[name].directions[SITE], alone.directions[SITE], atol=2e-3 * scale, rtol=0)
        assert together[name].description == name


def test_a_fit_that_only_harms_what_is_held_out_stops_and_leaves_the_vector_at_zero(llama):
    wrong = disagreements(llama, [f"{index}-{3 * index}=" for index in range(20, 28)], target=66)
    generator, fit = torch_generator(0), replace(FIT, check_every=2, patience=3)
    vector = fit_gradient(llama, SITE, seen(llama), fit, generator, description="", held_out=wrong)
    assert vector == vector * 0.0
    # It looked before steps 0, 2, 4 and 6, and took no step after the third look that was worse than the first.
    reference = torch_generator(0)
    for _ in range(6):
        torch.randint(12, (8,), generator=reference)
    assert torch.equal(generator.get_state(), reference.get_state())


def test_of_all_looks_the_vector_with_the_lowest_held_out_loss_is_kept(llama):
    fit = replace(FIT, n_steps=12, check_every=1, patience=12)
    kept = fit_gradient(llama, SITE, seen(llama), fit, torch_generator(0), description="", held_out=held(llama))
    every = [
        fit_gradient(llama, SITE, seen(llama), replace(fit, n_steps=n), torch_generator(0), description="")
        for n in range(1, 13)
    ]
    best = min(every, key=lambda vector: loss_with(llama, vector, held(llama)))
    assert kept == best


def test_one_category_that_stops_does_not_stop_another(llama):
    wrong = disagreements(llama, [f"{index}-{3 * index}=" for index in range(20, 28)], target=66)
    fit = replace(FIT, n_steps=12, check_every=2, patience=1)
    table = {
        "stops": Category(examples=seen(llama), generator=torch_generator(0), description="", held_out=wrong),
        "goes on": Category(examples=seen(llama), generator=torch_generator(0), description=""),
    }
    together = fit_gradients(llama, SITE, table, fit)
    assert together["stops"] == together["stops"] * 0.0
    alone = fit_gradient(llama, SITE, seen(llama), fit, torch_generator(0), description="")
    torch.testing.assert_close(
        together["goes on"].directions[SITE], alone.directions[SITE], atol=2e-3 * alone.residual_norms[SITE], rtol=0
    )


def test_a_category_of_no_example_is_named(llama):
    empty = Disagreements(torch.zeros(0, 3).long(), torch.ones(0, 3).bool(), torch.zeros(0).long())
    table = {
        "full": Category(examples=seen(llama), generator=torch_generator(1), description=""),
        "bare": Category(examples=empty, generator=torch_generator(1), description=""),
    }
    with pytest.raises(VectorError, match="'bare': no disagreement"):
        fit_gradients(llama, SITE, table, FIT)


def test_while_fitting_the_vector_acts_at_the_last_position_of_a_context_alone(llama):
    streams = []
    handle = hook_site(llama, Site(1, "resid_pre"), lambda stream: streams.append(stream.detach().clone()))
    fit_gradient(
        llama, SITE, disagreements(llama, ["2+2="]), replace(FIT, n_steps=3), torch_generator(0), description=""
    )
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
        fit_gradient(
            llama, SITE, disagreements(llama, given), replace(FIT, n_steps=1), torch_generator(0), description=""
        )
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
    empty = Disagreements(torch.zeros(0, 3).long(), torch.ones(0, 3).bool(), torch.zeros(0).long())
    with pytest.raises(VectorError, match="no disagreement to fit a vector on"):
        fit_gradient(llama, SITE, empty, FIT, torch_generator(0), description="")


def test_a_loss_that_is_not_finite_is_refused_and_leaves_no_hook(llama):
    llama.network.lm_head.weight[7] = float("nan")
    with pytest.raises(VectorError, match="the loss became nan: lower the learning rate"):
        fitted(llama)
    assert sum(len(module._forward_hooks) for module in llama.network.modules()) == 0


def test_gradients_work_also_where_the_caller_has_them_off(llama):
    wanted = fitted(llama)
    with torch.no_grad():
        assert fitted(llama) == wanted
