"""Captured residuals are transformers' hidden states, whatever the padding, and the network is left as it was."""

import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.errors import SiteError
from probes.capture.capture import capture
from probes.capture.site import Site

FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox"]
PROMPTS = ("a", "what is 2+3?", "chains of unequal length")
N_LAYERS = 3
SITES = tuple(Site(layer, stream) for layer in range(N_LAYERS) for stream in ("resid_pre", "resid_post"))


@pytest.fixture(scope="module", params=FAMILIES)
def model(request) -> Model:
    return tiny_model(request.param, seed=5, n_layers=N_LAYERS)


@pytest.fixture
def llama() -> Model:
    return tiny_model("llama", seed=5, n_layers=N_LAYERS)


def padded(model, side):
    """Token ids and mask of `PROMPTS`."""
    ids = model.tokenizer(list(PROMPTS)).input_ids
    width = max(map(len, ids))
    tokens, mask = torch.full((len(ids), width), model.tokenizer.pad_token_id), torch.zeros(len(ids), width).bool()
    for row, text in enumerate(ids):
        place = slice(width - len(text), width) if side == "left" else slice(len(text))
        tokens[row, place], mask[row, place] = torch.tensor(text), True
    return tokens, mask


@torch.no_grad()
def hidden_states(model, prompt):
    """Site -> the stream of one text without padding, from transformers' own records."""
    ids = torch.tensor([list(model.tokenizer(prompt).input_ids)])
    states = model.network(ids, output_hidden_states=True).hidden_states
    found = {Site(layer, "resid_pre"): states[layer][0] for layer in range(N_LAYERS)}
    return found | {Site(layer): states[layer + 1][0] for layer in range(N_LAYERS - 1)}, states[-1][0]


def assert_close(came, wanted):
    """Within 1e-5 of the largest entry: a padded batch adds the same numbers up in another order."""
    assert came.shape == wanted.shape
    assert float((came - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


def n_hooks(model) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.network.modules())


@pytest.mark.parametrize("side", ["left", "right"])
def test_captured_residuals_equal_the_hidden_states_of_transformers_under_padding(model, side):
    tokens, mask = padded(model, side)
    captured = capture(model, tokens, mask, SITES)
    for row, prompt in enumerate(PROMPTS):
        wanted, normed = hidden_states(model, prompt)
        for site, states in wanted.items():
            assert_close(captured[site][row][mask[row]], states)
        # transformers records the last stream behind the final norm only.
        last = model.anatomy.final_norm(captured[Site(N_LAYERS - 1)][row][mask[row]])
        assert_close(last, normed)


def test_captured_residuals_of_a_text_alone_are_the_hidden_states_bit_for_bit(model):
    ids = torch.tensor([list(model.tokenizer(PROMPTS[1]).input_ids)])
    captured = capture(model, ids, torch.ones_like(ids).bool(), SITES)
    wanted, _ = hidden_states(model, PROMPTS[1])
    for site, states in wanted.items():
        assert torch.equal(captured[site][0], states)
        assert captured[site].dtype == model.dtype
        assert not captured[site].requires_grad


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt_neox"])
def test_attention_is_given_no_mask_whose_size_is_quadratic(family, side, monkeypatch):
    model = tiny_model(family, seed=5, n_layers=N_LAYERS)
    plain, seen = torch.nn.functional.scaled_dot_product_attention, []

    def watched(*arguments, attn_mask=None, is_causal=False, **options):
        seen.append((attn_mask, is_causal))
        return plain(*arguments, attn_mask=attn_mask, is_causal=is_causal, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    capture(model, *padded(model, side), SITES)
    assert seen == [(None, True)] * N_LAYERS


def test_padding_on_either_side_gives_the_very_same_numbers(model):
    left, right = (padded(model, side) for side in ("left", "right"))
    of_left, of_right = capture(model, *left, SITES), capture(model, *right, SITES)
    for site in SITES:
        assert torch.equal(of_left[site][left[1]], of_right[site][right[1]])


@pytest.mark.parametrize("last", [Site(0, "resid_pre"), Site(0), Site(1, "resid_pre"), Site(2)])
def test_blocks_above_the_last_site_do_not_run(model, last):
    tokens, mask = padded(model, "left")
    n_runs = [0] * N_LAYERS

    def count(layer):
        def add(*_):
            n_runs[layer] += 1

        return add

    handles = [block.mlp.register_forward_hook(count(layer)) for layer, block in enumerate(model.anatomy.blocks)]
    try:
        captured = capture(model, tokens, mask, [last, Site(0, "resid_pre")])
    finally:
        for handle in handles:
            handle.remove()
    n_needed = last.layer + (last.stream == "resid_post")
    assert n_runs == [1] * n_needed + [0] * (N_LAYERS - n_needed)
    assert list(captured) == list(dict.fromkeys([last, Site(0, "resid_pre")]))


@torch.no_grad()
def test_logits_are_the_same_before_and_after_and_no_hook_stays(model):
    tokens, mask = padded(model, "left")
    before, at_first = model.network(tokens, attention_mask=mask.long()).logits, n_hooks(model)
    capture(model, tokens, mask, SITES)
    assert n_hooks(model) == at_first
    assert torch.equal(model.network(tokens, attention_mask=mask.long()).logits, before)
    # An early exit must not spoil what transformers records afterwards.
    states = model.network(tokens, attention_mask=mask.long(), output_hidden_states=True).hidden_states
    assert len(states) == N_LAYERS + 1


@torch.no_grad()
def test_logits_are_unchanged_while_they_are_watched(llama):
    tokens, mask = padded(llama, "left")
    plain = llama.network(tokens, attention_mask=mask.long()).logits
    captured = []

    def watch(*_):
        # A capture inside a pass, which runs this hook again: the pass around it goes on as if nothing had happened.
        if not captured:
            captured.append({})
            captured.append(capture(llama, tokens, mask, SITES))

    handle = llama.anatomy.blocks[0].register_forward_hook(watch)
    try:
        assert torch.equal(llama.network(tokens, attention_mask=mask.long()).logits, plain)
    finally:
        handle.remove()
    assert set(captured[1]) == set(SITES)


def test_what_was_captured_is_a_copy(llama):
    tokens, mask = padded(llama, "left")
    first = capture(llama, tokens, mask, [Site(0), Site(1, "resid_pre")])
    first[Site(0)].zero_()
    assert first[Site(1, "resid_pre")].abs().sum() > 0


def test_an_exception_inside_the_network_takes_the_hooks_away(llama):
    tokens, mask = padded(llama, "left")

    def fail(*_):
        raise ZeroDivisionError

    handle = llama.anatomy.blocks[1].register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        capture(llama, tokens, mask, SITES)
    handle.remove()
    assert n_hooks(llama) == 0


@pytest.mark.parametrize("layer", [-1, N_LAYERS])
def test_a_layer_out_of_range_names_the_valid_range_and_leaves_no_hook(llama, layer):
    tokens, mask = padded(llama, "left")
    with pytest.raises(SiteError, match=rf"layer {layer} is out of range: tiny-llama-5 has 3 layers, want 0 to 2"):
        capture(llama, tokens, mask, [Site(0), Site(layer), Site(1)])
    assert n_hooks(llama) == 0


def test_no_site_at_all_is_refused(llama):
    with pytest.raises(SiteError, match="no site: want at least one"):
        capture(llama, *padded(llama, "left"), [])


def test_a_hook_that_never_fires_is_an_error_that_names_it(llama):
    tokens, mask = padded(llama, "left")
    # A pass that takes a way around the blocks.
    llama.network.model.layers = torch.nn.ModuleList()
    with pytest.raises(SiteError, match=r"hooks at blocks\.0\.hook_resid_post, blocks\.2\.hook_resid_post never fired"):
        capture(llama, tokens, mask, [Site(2), Site(0)])
    assert n_hooks(llama) == 0
