"""Parity of a store and of `capture` with TransformerLens, whatever the padding."""

import pytest
import torch

from lab.models.bridge import to_bridge
from lab.models.tiny import tiny_model
from lab.records.provenance import provenance
from probes.capture.capture import capture
from probes.capture.site import TEXTS, AllTokens, Site
from probes.storage.fill import fill
from probes.storage.store import plan, read_rows

TEXTS_READ = ["<6-0-4+8?", "T6-0=6;6-4=2;", "A"]
N_LAYERS = 3
SITES = tuple(Site(layer, stream) for layer in range(N_LAYERS) for stream in ("resid_pre", "resid_post"))


def padded(ids, side):
    width = max(map(len, ids))
    tokens, mask = torch.full((len(ids), width), 256), torch.zeros(len(ids), width).bool()
    for row, text in enumerate(ids):
        place = slice(width - len(text), width) if side == "left" else slice(len(text))
        tokens[row, place], mask[row, place] = torch.tensor(text), True
    return tokens, mask


def assert_close(came, wanted):
    """Within 1e-5 of the largest entry: the bridge computes attention eagerly, in another order."""
    assert came.shape == wanted.shape
    assert float((came - wanted).abs().max()) <= 1e-5 * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "gpt_neox"])
def test_store_and_capture_equal_the_residual_stream_of_transformer_lens_under_any_padding(family, tmp_path):
    model = tiny_model(family, seed=3, n_layers=N_LAYERS)
    ids = [model.tokenizer(text).input_ids for text in TEXTS_READ]
    bridge, names = to_bridge(model), [str(site) for site in SITES]
    assert set(names) <= set(bridge.hook_dict), "transformer_lens ignores unknown names in silence"
    texts = TEXTS.frame(
        [
            {"problem_id": str(n), "sample_index": 0, "prompt": text[:2], "completion": text[2:]}
            for n, text in enumerate(ids)
        ]
    )
    planned = plan(model, texts, SITES, AllTokens())
    made_by = provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0)
    store = fill(model, texts, planned, tmp_path / "store", made_by)
    for side in ("left", "right"):
        tokens, mask = padded(ids, side)
        _, cache = bridge.run_with_cache(tokens, attention_mask=mask.long(), names_filter=names)
        captured = capture(model, tokens, mask, SITES)
        for site in SITES:
            wanted = cache[str(site)][mask]
            assert_close(captured[site][mask], wanted)
            assert_close(read_rows(store, site, 0), wanted)
    for row, text in enumerate(ids):
        _, cache = bridge.run_with_cache(torch.tensor([text]), names_filter=names)
        first = sum(map(len, ids[:row]))
        for site in SITES:
            assert_close(read_rows(store, site, 0)[first : first + len(text)], cache[str(site)][0])
