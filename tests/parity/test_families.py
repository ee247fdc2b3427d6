"""Any family: shrunk random models of published configurations pass the six checks; the page has what they gave."""

import pytest
import torch
from transformers import AutoConfig

from lab.models.anatomy import find_anatomy
from lab.models.checkpoint import without_numbers
from lab.models.tiny import byte_tokenizer
from lab.records.errors import ModelError, SiteError
from probes.capture.capture import capture
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
    row_of,
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
