"""The descent makes targets likely, stops when it no longer does, and its rates are the described ones."""

import pytest
import torch

from lab.models.tiny import tiny_model
from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.fits.fit import Example
from steering.fits.gradient import read_examples
from steering.published_hybrids.material import Descent, descend

FIT = Descent(n_epochs=4, batch_size=5, learning_rate=0.05, patience=10)


def likelihood(n=12):
    model = tiny_model("llama", seed=5)
    texts = [list(f"{index}+{7 * index}=".encode()) for index in range(n)]
    return read_examples(
        model, Site(0), [Example(text, len(text) - 1, [len(text) - 1], [65]) for text in texts], batch_size=5
    )


def moved(fit, targets, *, network=(), shift=None):
    vector = torch.zeros(32, requires_grad=True)
    descend(
        targets,
        shift or (lambda rows: vector.expand(len(rows), -1)),
        [vector],
        fit,
        torch_generator(0),
        network=network,
    )
    return vector.detach()


def reference(fit, targets, n_epochs):
    """Adam and half a cosine, written out."""
    vector, m, v, step = torch.zeros(32, requires_grad=True), torch.zeros(32), torch.zeros(32), 0
    generator, n_steps = torch_generator(0), fit.n_epochs * 3
    start = fit.learning_rate * float(targets.streams.last().norm(dim=1).mean()) / 32**0.5
    for _ in range(n_epochs):
        for rows in torch.randperm(12, generator=generator).split(5):
            loss = targets.losses(rows, vector.expand(len(rows), -1)).mean()
            (gradient,) = torch.autograd.grad(loss, vector)
            rate = start * (1 + torch.cos(torch.tensor(torch.pi * step / n_steps))) / 2
            step += 1
            m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            moved = rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
            vector = (vector - moved).detach().requires_grad_()
    return vector.detach()


def test_it_is_adam_at_a_rate_that_falls_by_half_a_cosine():
    targets = likelihood()
    torch.testing.assert_close(moved(FIT, targets), reference(FIT, targets, 4), atol=2e-4, rtol=0)


def test_it_ends_after_as_many_epochs_without_a_better_loss_as_it_has_patience():
    targets = likelihood()
    # At a rate this low no epoch gains a thousandth: the first counts as better, the next two end it.
    still = Descent(n_epochs=9, batch_size=5, learning_rate=1e-7, patience=2)
    torch.testing.assert_close(moved(still, targets), reference(still, targets, 3), atol=1e-9, rtol=1e-3)


def test_a_network_learns_at_a_rate_of_its_own_and_decays():
    targets, fit = likelihood(), Descent(n_epochs=1, batch_size=12, learning_rate=0.05, patience=1)
    network = torch.full((32,), 2.0, requires_grad=True)
    moved(fit, targets, network=[network], shift=lambda rows: (network - 2.0).expand(len(rows), -1))
    # The first step of Adam is the rate itself, whatever the gradient; decay takes 0.01 times the rate of the value.
    torch.testing.assert_close(
        (network.detach() - 2.0 * (1 - 0.01 * 0.01)).abs(), torch.full((32,), 0.01), atol=1e-5, rtol=0
    )


def test_a_loss_that_is_not_finite_is_an_error():
    with pytest.raises(VectorError, match="the loss became nan: lower the learning rate"):
        moved(FIT, likelihood(), shift=lambda rows: torch.full((len(rows), 32), float("nan"), requires_grad=True))
