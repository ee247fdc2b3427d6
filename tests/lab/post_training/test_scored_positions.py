"""Only the tokens that a loss counts reach TRL's unembedding, and the loss and its gradients do not notice."""

import pytest
import torch
from trl.trainer import utils

from lab.models.tiny import tiny_network
from lab.post_training.trainers import CHOICE, scored_positions

N_ROWS, N_TOKENS, N_SCORED = 3, 12, 5


def loss_and_gradient(monkeypatch) -> tuple[float, torch.Tensor, int]:
    """Of a network with TRL's unembedding, and how many positions that looked at."""
    network = tiny_network("llama", seed=0)
    utils.add_fused_lm_head(network)
    seen: list[int] = []
    kernel = utils._ChunkedLogProbFunction.apply
    with monkeypatch.context() as patched:
        patched.setattr(
            utils._ChunkedLogProbFunction,
            "apply",
            lambda hidden, *rest: seen.append(len(hidden)) or kernel(hidden, *rest),
        )
        tokens = torch.arange(N_ROWS * N_TOKENS).reshape(N_ROWS, N_TOKENS) + 20
        labels = tokens.masked_fill(torch.arange(N_TOKENS) < N_TOKENS - N_SCORED, -100)
        loss = network(tokens, labels=labels, fused_lm_head=True).loss
    loss.backward()
    gradient = network.get_input_embeddings().weight.grad
    assert gradient is not None
    (n_positions,) = seen
    return loss.item(), gradient, n_positions


def test_the_loss_and_its_gradient_are_those_of_all_positions(monkeypatch):
    monkeypatch.setattr(utils, CHOICE, lambda _: False)
    loss, gradient, n_positions = loss_and_gradient(monkeypatch)
    assert n_positions == N_ROWS * (N_TOKENS - 1)
    with scored_positions():
        faster, same_gradient, n_fewer = loss_and_gradient(monkeypatch)
    assert n_fewer == N_ROWS * N_SCORED
    assert faster == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(same_gradient, gradient)


def test_it_ends_with_its_block_also_after_an_error():
    before = getattr(utils, CHOICE)
    with pytest.raises(ZeroDivisionError), scored_positions():
        raise ZeroDivisionError
    assert getattr(utils, CHOICE) is before


def test_a_version_without_the_choice_is_left_alone(monkeypatch):
    monkeypatch.delattr(utils, CHOICE)
    with scored_positions():
        assert not hasattr(utils, CHOICE)
