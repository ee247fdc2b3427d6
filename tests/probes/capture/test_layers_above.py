"""The remainder of a network, given the stream that the network has itself, is the network."""

import copy

import pytest
import torch

from lab.models.load import assemble
from lab.models.tiny import FAMILIES, byte_tokenizer, tiny_model
from lab.records.errors import SiteError
from lab.sampling.decoder import left_padded, token_positions
from probes.capture.capture import layers_above
from probes.capture.site import Site, hook_site

N_LAYERS = 3
SITES = [Site(0, "resid_pre"), Site(0), Site(1), Site(N_LAYERS - 1)]
TEXTS = ([5, 80, 3, 7, 7, 120, 9, 31, 2], [65, 66], [9, 8, 7, 6, 5])


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param, seed=5, n_layers=N_LAYERS)


def alone(tokens):
    """A batch of one text."""
    ids = torch.tensor([tokens])
    return ids, torch.ones_like(ids).bool()


def everywhere(rest):
    """All places of every text."""
    return torch.arange(rest.stream.shape[1]).expand(rest.stream.shape[:2])


def n_hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.network.modules())


@pytest.mark.parametrize("site", SITES, ids=str)
@torch.no_grad()
def test_the_streams_own_logits_are_those_of_the_full_pass_bit_for_bit(model, site):
    ids, mask = alone(TEXTS[0])
    rest = layers_above(model, site, ids, mask)
    assert torch.equal(rest.logits(rest.stream, everywhere(rest)), model.network(ids).logits)
    assert n_hooks(model) == 0


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_texts_of_unequal_length_share_a_batch_whatever_the_padding(model, side):
    tokens, mask = left_padded(model, TEXTS)
    if side == "right":
        order = (~mask).long().argsort(dim=1, stable=True)
        tokens, mask = tokens.gather(1, order), mask.gather(1, order)
    rest = layers_above(model, Site(1), tokens, mask)
    assert rest.lengths.tolist() == [9, 2, 5]
    last = rest.logits(rest.stream, rest.lengths[:, None] - 1)[:, 0]
    for text, logits in zip(TEXTS, last, strict=True):
        wanted = model.network(torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@torch.no_grad()
def test_edits_of_several_texts_mix_in_any_number(model):
    site = Site(0)
    tokens, mask = left_padded(model, TEXTS)
    rest = layers_above(model, site, tokens, mask)
    edits = torch.randn(5, *rest.stream.shape[1:], generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([2, 0, 0, 1, 2])
    came = rest.logits(rest.stream[rows] + edits, rest.lengths[rows, None] - 1)[:, 0]
    for number, row in enumerate(rows.tolist()):
        n_tokens = len(TEXTS[row])
        handle = hook_site(model, site, lambda stream, edit=edits[number, :n_tokens]: stream + edit)
        try:
            wanted = model.network(torch.tensor([TEXTS[row]])).logits[0, -1]
        finally:
            handle.remove()
        torch.testing.assert_close(came[number], wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "mistral", "olmo3"])
@torch.no_grad()
def test_windows_shorter_than_the_text_are_kept(family):
    wide = tiny_model(family, seed=5, n_layers=N_LAYERS)
    config = copy.deepcopy(wide.network.config)
    config.sliding_window = 3
    with torch.random.fork_rng(devices=[]):
        network = type(wide.network)(config)
    network.load_state_dict(wide.network.state_dict())
    model = assemble(network, byte_tokenizer(), name="windowed")
    tokens, mask = left_padded(model, TEXTS)
    rest = layers_above(model, Site(0, "resid_pre"), tokens, mask)
    for row, text in enumerate(TEXTS):
        wanted = model.network(torch.tensor([text])).logits
        came = rest.logits(rest.stream[[row]], torch.arange(len(text))[None])
        torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
        is_long = len(text) > 3
        assert (float((wide.network(torch.tensor([text])).logits - wanted).abs().max()) > 0.01) == is_long


def test_gradients_reach_the_stream_and_nothing_else(model):
    site = Site(0)
    ids, mask = alone(TEXTS[0])
    rest = layers_above(model, site, ids, mask)
    assert not rest.stream.requires_grad
    last = torch.tensor([[len(TEXTS[0]) - 1]])
    stream = rest.stream.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(rest.logits(stream, last)[0, 0, 7], stream)
    inside = []

    def watch(found):
        inside.append(found.detach().clone().requires_grad_())
        return inside[0]

    handle = hook_site(model, site, watch)
    try:
        logits = model.network(ids, position_ids=token_positions(mask)).logits
    finally:
        handle.remove()
    (wanted,) = torch.autograd.grad(logits[0, -1, 7], inside[0])
    torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-6)
    assert all(weight.grad is None and not weight.requires_grad for weight in model.network.parameters())


@torch.no_grad()
def test_blocks_below_the_site_run_once_however_many_edits_follow():
    model = tiny_model("llama", seed=5, n_layers=N_LAYERS)
    n_runs = [0] * N_LAYERS

    def count(layer):
        def add(*_):
            n_runs[layer] += 1

        return add

    handles = [block.register_forward_hook(count(layer)) for layer, block in enumerate(model.anatomy.blocks)]
    rest = layers_above(model, Site(1), *alone(TEXTS[0]))
    for _ in range(3):
        rest.logits(rest.stream, torch.tensor([[0]]))
    for handle in handles:
        handle.remove()
    assert n_runs == [1, 1, 4]


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_out_of_range_is_refused_and_leaves_no_hook(layer):
    model = tiny_model("llama", seed=5, n_layers=N_LAYERS)
    with pytest.raises(SiteError, match=rf"layer {layer} is out of range"):
        layers_above(model, Site(layer), *alone(TEXTS[0]))
    assert n_hooks(model) == 0


def test_a_network_that_goes_around_its_blocks_is_refused_by_name():
    model = tiny_model("llama", seed=5, n_layers=N_LAYERS)
    model.network.model.layers = model.network.model.layers[:2]
    with pytest.raises(
        SiteError, match=r"a pass of tiny-llama-5 ran 1 blocks above blocks\.0\.hook_resid_post, want 2"
    ):
        layers_above(model, Site(0), *alone(TEXTS[0]))


def test_half_a_block_is_no_remainder():
    model = tiny_model("llama", seed=0)
    with pytest.raises(SiteError, match="lies inside a block, and only whole blocks are run again"):
        layers_above(model, Site(0, "resid_mid"), torch.tensor([[1, 2]]), torch.ones(1, 2).bool())
