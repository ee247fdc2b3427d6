"""Any family: shrunk random models of published configurations pass the six checks; the page has what they gave."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from lab.models.anatomy import find_anatomy
from lab.models.checkpoint import without_numbers
from lab.models.load import assemble, load
from lab.models.source import LocalModel
from lab.models.tiny import byte_tokenizer
from lab.records.errors import ModelError, SiteError
from lab.sampling.decoder import Batch, CachedDecoder, token_positions
from probes.capture.capture import capture, layers_above
from probes.capture.site import Site, hook_site
from tests.families import (
    CHECKS,
    CONFIGS,
    EXACT,
    FAST,
    NEAR,
    PAGE,
    UNNAMED,
    Row,
    config_of,
    decoded,
    own_config,
    random_model,
    random_network,
    row_of,
    shrunk,
)
from tests.kinds import one_always

PUBLISHED = sorted(CONFIGS.glob("*.json"))


def require_near(row: Row) -> None:
    """The checks hold, and the page says so in this row but for the sizes of differences."""
    for check, difference in row.differences.items():
        assert difference <= (0.0 if check in EXACT else NEAR), check
    cells = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    mine = row.line.split(" | ")
    sizes = slice(4, 4 + len(CHECKS) + 1)
    assert [[*line[: sizes.start], *line[sizes.stop :]] for line in cells if line[0] == mine[0]] == [
        [*mine[: sizes.start], *mine[sizes.stop :]]
    ]


@pytest.mark.parametrize("family", FAST.values(), ids=FAST)
def test_one_of_each_kind_passes_the_six_checks(family, tmp_path):
    require_near(row_of(f"`{family}`", random_model(own_config(family), family), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("family", UNNAMED)
def test_a_family_that_nobody_named_passes_the_six_checks(family, tmp_path):
    require_near(row_of(f"`{family}`", random_model(own_config(family), family), tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_a_published_configuration_passes_the_six_checks_as_a_checkpoint(path, tmp_path):
    model = random_model(config_of(path, tmp_path), path.stem, tmp_path / "model")
    require_near(row_of(path.stem, model, tmp_path))


def test_the_page_names_every_configuration():
    names = [line.split(" | ")[0].removeprefix("| ") for line in PAGE.read_text(encoding="utf-8").splitlines()]
    wanted = [*(path.stem for path in PUBLISHED), *(f"`{family}`" for family in (*FAST.values(), *UNNAMED))]
    assert set(wanted) <= set(names)


REFUSED = {
    "bert": "a token reads those behind it",
    "mamba": "keeps what it has read in a way of its own",
    "bart": "padding on the left changes",
    "minimax": "uses cache of its own",
    "deepseek_v32": "DynamicIndexedLayer",
}


@pytest.mark.parametrize("family", one_always(REFUSED))
def test_what_is_not_served_is_refused_in_a_sentence(family):
    with pytest.raises(ModelError, match=REFUSED[family]) as refused:
        random_model(own_config(family), family)
    assert "\n" not in str(refused.value)


def test_longrope_is_served_as_far_as_no_text_changes_another():
    half = 8
    config = AutoConfig.for_model(
        "phi3", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=512,
        max_position_embeddings=512, original_max_position_embeddings=16, pad_token_id=0, eos_token_id=2,
        rope_parameters={"rope_type": "longrope", "short_factor": [1.0] * half, "long_factor": [8.0] * half,
                         "rope_theta": 10000.0, "original_max_position_embeddings": 16},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = random_model(config, "long")
    limit = model.anatomy.one_rotation
    assert limit == model.anatomy.context == 16
    texts = torch.randint(0, 256, (2, limit + 1), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(texts).bool()
    # What would be read if it were not refused: the first token of a text depends on its length.
    short, long = (model.network(texts[:, :n]).logits[:, 2] for n in (limit, limit + 1))
    assert (short - long).abs().max() > 1e-3
    capture(model, texts[:, :limit], mask[:, :limit], [Site(0)])
    with pytest.raises(ModelError, match=r"a text of more than 16 tokens changes how all others"):
        capture(model, texts, mask, [Site(0)])
    rows = texts.tolist()
    decoded(model, [row[:limit] for row in rows], [9, 9])
    with pytest.raises(ModelError, match=r"a text of more than 16 tokens changes how all others"):
        decoded(model, rows, [9, 9])


# fmt: off
BESIDE = {
    "granitemoehybrid": {"layer_types": ["attention"] * 2, "shared_intermediate_size": 32, "num_local_experts": 4},
    "dbrx": {"d_model": 64, "n_heads": 4, "n_layers": 2, "ffn_config": {"ffn_hidden_size": 32},
             "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8}},
}
# fmt: on


@pytest.mark.parametrize("family", BESIDE)
def test_a_router_is_found_beside_its_experts_and_where_these_are_one_matrix(family):
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    given = (sizes if family != "dbrx" else {}) | BESIDE[family] | {"vocab_size": 512, "pad_token_id": 0}
    model = assemble(random_network(AutoConfig.for_model(family, **given)), byte_tokenizer(), name=family)
    tokens = torch.tensor([byte_tokenizer()("Which expert?").input_ids])
    sites = [Site(layer, "router") for layer in range(2)]
    found = capture(model, tokens, torch.ones_like(tokens).bool(), sites)
    told = model.network(tokens, output_router_logits=True).router_logits
    assert all(torch.equal(found[site][0], logits) for site, logits in zip(sites, told, strict=True))


def test_attention_that_is_sharpened_by_place_is_served_up_to_where_that_begins():
    config = AutoConfig.for_model(
        "llama4_text", hidden_size=64, intermediate_size=32, intermediate_size_mlp=96, num_hidden_layers=2, head_dim=16,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=2, vocab_size=512, floor_scale=16,
        no_rope_layers=[1, 0], pad_token_id=0,
    )  # fmt: skip
    model = assemble(random_network(config), byte_tokenizer(), name="sharp")
    limit = model.anatomy.one_rotation
    assert limit == model.anatomy.context == 15
    text = torch.arange(1, limit + 1)[None]
    alone = model.network(text).logits[0, -1]
    for n_pad, is_same in ((0, True), (limit, False)):
        tokens, mask = (torch.nn.functional.pad(each, (n_pad, 0)) for each in (text, torch.ones_like(text)))
        given = {"attention_mask": mask, "position_ids": token_positions(mask.bool())}
        beside = model.network(tokens, **given).logits[0, -1]
        assert torch.allclose(beside, alone, atol=1e-5) == is_same
    with pytest.raises(ModelError, match="a text of more than 15 tokens"):
        left_padded_decoder(model, limit + 1)


def left_padded_decoder(model, width):
    tokens = torch.ones(1, width, dtype=torch.long)
    return CachedDecoder(model, Batch(tokens, tokens.bool(), torch.tensor([0]), np.zeros(1, dtype=np.uint64)))


def test_loading_draws_from_no_generator(tmp_path):
    random_network(shrunk(own_config("qwen3_next"))).save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    load(LocalModel(path=tmp_path), device=torch.device("cpu"), dtype=torch.float32)
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_that_read_the_embedding_beside_the_stream_are_not_run_again():
    config = AutoConfig.for_model(
        "zamba2", hidden_size=64, num_hidden_layers=2, layers_block_type=["hybrid", "mamba"], hybrid_layer_ids=[0],
        mamba_d_state=8, mamba_ngroups=1, n_mamba_heads=8, mamba_headdim=16, num_attention_heads=4, vocab_size=512,
        num_key_value_heads=4, intermediate_size=96, attention_hidden_size=128, attention_head_dim=32, adapter_rank=8,
        num_mem_blocks=1, chunk_size=16, pad_token_id=0,
    )  # fmt: skip
    model = assemble(random_network(config), byte_tokenizer(), name="beside")
    tokens = torch.arange(1, 9).reshape(2, 4)
    with pytest.raises(SiteError, match="beside the stream"):
        layers_above(model, Site(0, "resid_pre"), tokens, torch.ones_like(tokens).bool())


def test_a_router_is_read_and_not_edited():
    model = random_model(own_config("qwen3_moe"), "experts")
    tokens = torch.tensor([byte_tokenizer()("Which expert?").input_ids])
    site, seen = Site(1, "router"), []
    router = model.anatomy.routers[1]
    assert router is not None
    handle = router.register_forward_hook(lambda *given: seen.append(given[2][0]))
    logits = capture(model, tokens, torch.ones_like(tokens).bool(), [site, Site(1)])[site]
    handle.remove()
    assert torch.equal(logits[0], seen[0])
    assert Site.parse(str(site)) == site
    with pytest.raises(SiteError, match="only read"):
        hook_site(model, site, lambda stream: stream)
    dense = random_model(own_config("llama"), "dense")
    with pytest.raises(SiteError, match="no experts to choose from"):
        capture(dense, tokens, torch.ones_like(tokens).bool(), [site])


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
@pytest.mark.slow
def test_a_published_configuration_is_taken_apart_without_numbers(path, tmp_path):
    config = config_of(path, tmp_path)
    anatomy = find_anatomy(without_numbers(config, most=10**6, name=path.stem))
    text = config.get_text_config(decoder=True)
    assert (anatomy.n_layers, anatomy.d_model, anatomy.d_vocab) == (
        text.num_hidden_layers,
        text.hidden_size,
        text.vocab_size,
    )
