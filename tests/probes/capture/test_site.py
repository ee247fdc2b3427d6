"""A site names one place, reads back from its name, and refuses layers that a model does not have."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.records.errors import SiteError
from probes.capture.site import Site, check_site, hook_site

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])
FAMILIES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox"]


@given(st.integers(0, 10**6), st.sampled_from(["resid_pre", "resid_mid", "resid_post"]))
def test_every_site_comes_back_from_its_name(layer, stream):
    assert Site.parse(str(Site(layer, stream))) == Site(layer, stream)


def test_a_site_is_written_as_transformer_lens_writes_it():
    assert str(Site(3)) == "blocks.3.hook_resid_post"
    assert str(Site(0, "resid_pre")) == "blocks.0.hook_resid_pre"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "3",
        "blocks.3",
        "blocks.-1.hook_resid_post",
        "blocks.x.hook_resid_post",
        "blocks.٣.hook_resid_post",
        "blocks.3.hook_mlp_out",
        "blocks.3.hook_resid_post ",
        "blocks.3.hook_resid_post\n",
    ],
)
def test_what_names_no_site_is_refused_with_the_streams_there_are(text):
    with pytest.raises(
        SiteError,
        match=r"want blocks\.N\.S with S one of hook_resid_pre, hook_resid_mid, mlp\.hook_router",
    ):
        Site.parse(text)


@pytest.mark.parametrize("layer", [-1, 2, 99])
def test_a_layer_out_of_range_names_the_valid_range_and_leaves_no_hook(layer):
    model = tiny_model("llama", seed=0)
    for check in (lambda: check_site(model, Site(layer)), lambda: hook_site(model, Site(layer), lambda _: None)):
        with pytest.raises(SiteError, match=rf"layer {layer} is out of range: tiny-llama-0 has 2 layers, want 0 to 1"):
            check()
    assert all(not block._forward_hooks and not block._forward_pre_hooks for block in model.anatomy.blocks)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_a_block_is_what_the_next_one_reads(family):
    model = tiny_model(family, seed=0)
    seen = {}
    handles = [
        hook_site(model, site, lambda stream, site=site: seen.__setitem__(site, stream))
        for site in (Site(0), Site(1, "resid_pre"))
    ]
    try:
        model.network(TOKENS)
    finally:
        for handle in handles:
            handle.remove()
    assert torch.equal(seen[Site(0)], seen[Site(1, "resid_pre")])


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_change_after_a_block_equals_the_same_change_before_the_next(family):
    model = tiny_model(family, seed=0)
    plain = model.network(TOKENS).logits
    logits = []
    for site in (Site(0), Site(1, "resid_pre")):
        handle = hook_site(model, site, lambda stream: stream + torch.arange(32.0))
        try:
            logits.append(model.network(TOKENS).logits)
        finally:
            handle.remove()
    assert torch.equal(*logits)
    assert not torch.allclose(logits[0], plain)
    assert torch.equal(model.network(TOKENS).logits, plain)


@torch.no_grad()
@pytest.mark.parametrize("stream", ["resid_pre", "resid_mid", "resid_post"])
def test_a_change_that_returns_none_changes_nothing(stream):
    model = tiny_model("llama", seed=0)
    plain = model.network(TOKENS).logits
    handle = hook_site(model, Site(1, stream), lambda _: None)
    try:
        assert torch.equal(model.network(TOKENS).logits, plain)
    finally:
        handle.remove()


@torch.no_grad()
@pytest.mark.parametrize(("family", "norm"), [("llama", "post_attention_layernorm"), ("gpt2", "ln_2")])
def test_resid_mid_is_what_the_norm_before_the_mlp_reads(family, norm):
    model = tiny_model(family, seed=0)
    seen, read = [], []
    handle = hook_site(model, Site(1, "resid_mid"), seen.append)
    watch = model.anatomy.blocks[1].get_submodule(norm).register_forward_pre_hook(lambda _, args: read.append(args[0]))
    try:
        model.network(TOKENS)
    finally:
        handle.remove()
        watch.remove()
    assert len(seen) == 1
    assert torch.equal(seen[0], read[0])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_a_change_of_resid_mid_reaches_the_mlp_and_the_stream(family):
    model = tiny_model(family, seed=0)
    added = torch.linspace(-1.0, 1.0, 32)
    seen = {}
    watched = {
        site: hook_site(model, site, lambda stream, site=site: seen.__setitem__(site, stream)) for site in [Site(1)]
    }
    plain = model.network(TOKENS).logits
    before = seen[Site(1)]
    mid = []
    look = hook_site(model, Site(1, "resid_mid"), mid.append)
    model.network(TOKENS)
    look.remove()
    handle = hook_site(model, Site(1, "resid_mid"), lambda stream: stream + added)
    model.network(TOKENS)
    handle.remove()
    block = model.anatomy.blocks[1]
    norm = block.get_submodule("ln_2" if family == "gpt2" else "post_attention_layernorm")
    wanted = mid[0] + added + model.anatomy.mlps[1](norm(mid[0] + added))
    torch.testing.assert_close(seen[Site(1)], wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(seen[Site(1)], before + added)
    assert torch.equal(model.network(TOKENS).logits, plain)
    watched[Site(1)].remove()
    assert not block._forward_hooks
    assert not block._forward_pre_hooks
    assert not model.anatomy.attentions[1]._forward_hooks


@pytest.mark.parametrize("family", ["gemma2", "gpt_neox"])
def test_families_without_a_stream_between_attention_and_mlp_say_so(family):
    model = tiny_model(family, seed=0)
    with pytest.raises(SiteError, match=r"blocks\.1\.hook_resid_mid is no place in .*want resid_pre or resid_post"):
        hook_site(model, Site(1, "resid_mid"), lambda _: None)


def test_sites_sort_by_depth_as_a_pass_reaches_them():
    sites = [Site(1, "resid_pre"), Site(0), Site(0, "resid_mid"), Site(0, "resid_pre")]
    assert sorted(sites, key=lambda site: site.depth) == sites[::-1]
