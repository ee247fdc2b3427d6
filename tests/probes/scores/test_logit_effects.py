"""Logit effects are what the network's own final norm and head make of a feature's direction, in every family."""

import numpy as np
import pytest
import torch

from lab.models.tiny import FAMILIES, tiny_model
from lab.records.errors import ModelError, SiteError
from probes.capture.site import Site
from probes.scores import contexts as module
from probes.scores.contexts import directions, logit_effects, norm_gain


def with_random_norm(family: str):
    """A tiny model whose final norm is not the one of initialisation, for which gains are all alike."""
    model = tiny_model(family, seed=3)
    gain = torch.rand(model.anatomy.d_model, generator=torch.Generator().manual_seed(1))
    model.anatomy.final_norm.weight.data.copy_(gain + 0.5)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_a_direction_moves_the_logits_as_the_networks_own_norm_and_head_move_them(family):
    model = with_random_norm(family)
    norm, head = model.anatomy.final_norm.double(), model.anatomy.unembed.double()
    generator = torch.Generator().manual_seed(0)
    written = torch.randn(1, 32, generator=generator, dtype=torch.float64)
    # The norm's size does not change along a direction that is orthogonal to the stream, or to its centred part.
    centred = norm_gain(norm, 32).centres
    assert centred == (family in ("gpt2", "gpt_neox"))
    along = written - written.mean() if centred else written
    stream = torch.randn(1, 32, generator=generator, dtype=torch.float64)
    stream = stream - stream.mean() if centred else stream
    stream = stream - (stream * along).sum() / along.square().sum() * along
    size = stream.square().mean().sqrt()
    _, moved = torch.autograd.functional.jvp(lambda x: head(norm(x)), stream, written)
    predicted = directions(model, written) @ head.weight.float().T
    assert torch.allclose(predicted.double(), moved * size, atol=1e-4)


@pytest.mark.parametrize("n_together", [1, 2**24])
def test_the_strongest_tokens_are_those_of_the_whole_centred_product(saes, monkeypatch, n_together):
    monkeypatch.setattr(module, "_TOGETHER", n_together)
    model, sae = with_random_norm("llama"), saes(5)
    table = logit_effects(model, sae, [9, 2], n_tokens=4)
    assert table["feature"].to_list() == [2] * 8 + [9] * 8
    for feature in (2, 9):
        effects = (sae.W_dec[feature] * model.anatomy.final_norm.weight @ model.anatomy.unembed.weight.T).numpy()
        effects = effects - effects.mean()
        order = np.argsort(-effects)
        for side, wanted in (("up", order[:4]), ("down", order[::-1][:4])):
            rows = table.filter(feature=feature, side=side)
            assert rows["rank"].to_list() == [0, 1, 2, 3]
            assert rows["token"].to_list() == wanted.tolist()
            assert rows["effect"].to_list() == pytest.approx(effects[wanted].tolist(), abs=1e-4)
            assert rows["text"].to_list() == [model.tokenizer.decode([token]) for token in wanted]


def test_no_more_tokens_than_there_are(saes):
    table = logit_effects(tiny_model("llama"), saes(5), [1], n_tokens=1000)
    assert len(table) == 2 * 258
    assert table.filter(side="up")["effect"].sum() == pytest.approx(0, abs=1e-3), "they are centred"


def test_an_sae_that_does_not_fit_and_features_that_are_not_there_are_refused(saes):
    model = tiny_model("llama")
    with pytest.raises(ModelError, match="reads streams of width 16"):
        logit_effects(model, saes(5, d_model=16), [1])
    with pytest.raises(SiteError, match="layer 9 is out of range"):
        logit_effects(model, saes(5, site=Site(9)), [1])
    with pytest.raises(SiteError, match=r"features \[24\]: want at least one of those that SAE tiny-sae has, 0 to 23"):
        logit_effects(model, saes(5), [1, 24])
