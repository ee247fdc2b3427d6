"""The table of latents, by hand, and where norms alone would mislead."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from probes.crosscoder.compare import ONE_MODEL, compare
from probes.crosscoder.crosscoder import Crosscoder, moments, quality
from probes.tables import CROSSCODER_QUALITY, LATENTS

from .conftest import SITE


def axes(base: list[float], tuned: list[float]) -> Crosscoder:
    """Latent i reads axis i of the tuned stream, and writes axis i in each model by these lengths."""
    n = len(base)
    return Crosscoder(
        site=SITE,
        base_digest="base",
        tuned_digest="tuned",
        scale=torch.ones(2),
        W_enc=torch.stack([torch.zeros(n, n), torch.eye(n)]),
        b_enc=torch.zeros(n),
        W_dec=torch.stack([torch.diag(torch.tensor(base)), torch.diag(torch.tensor(tuned))], dim=1),
        b_dec=torch.zeros(2, n),
        threshold=torch.tensor(0.0),
    )


def test_every_column_by_hand(by_hand):
    # As in the test of both ratios, and a row at which nothing fires.
    streams = torch.tensor([[[2.0, 1.0], [4.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]])
    shared, tuned = compare(by_hand, moments(by_hand, [streams])).to_dicts()
    assert shared | {"placebo_share": None} == {
        "latent": 0,
        "relative_norm": 0.5,
        "cosine": 1.0,
        "nu_epsilon": 1.0,
        "nu_r": 1.0,
        "firing_share": 0.5,
        "mean_active": 2.0,
        "kind": "shared",
        "placebo_share": None,
    }
    assert (tuned["relative_norm"], tuned["nu_epsilon"], tuned["mean_active"]) == (1.0, 0.25, 4.0)
    # A quarter of it is in the base's error: too much for tuned only, too little for shared.
    assert tuned["kind"] == "undecided"
    assert np.isnan([tuned["cosine"], tuned["placebo_share"], shared["placebo_share"]]).all()


def test_a_decoder_that_shrank_to_nothing_misleads_norms_and_not_latent_scaling():
    """Both models hold both concepts on axes 0 and 1, but the base decoder has lost axis 1; only tuned has axis 2."""
    generator = torch.Generator().manual_seed(0)
    tuned = torch.rand(500, 3, generator=generator)
    base = tuned * torch.tensor([1.0, 1.0, 0.0])
    coder = axes(base=[1.0, 0.0, 0.0], tuned=[1.0, 1.0, 1.0])
    table = compare(coder, moments(coder, [torch.stack([base, tuned], dim=1)]))
    assert (table["relative_norm"] >= ONE_MODEL).to_list() == [False, True, True]
    assert table["kind"].to_list() == ["shared", "shared", "tuned only"]
    assert table["nu_epsilon"].to_list() == pytest.approx([1, 1, 0], abs=1e-5)


def test_a_concept_that_other_latents_write_in_the_base_is_shared_by_the_reconstruction():
    """Latents 0 and 1 are one concept split in two, each model's own row: the base's reconstruction still holds it."""
    values = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) + 0.1
    both = torch.stack([values, values], dim=1)
    coder = replace(
        axes(base=[0.0], tuned=[1.0]),
        W_enc=torch.ones(2, 1, 2) / 2,
        b_enc=torch.zeros(2),
        W_dec=torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]]),
    )
    table = compare(coder, moments(coder, [both]))
    assert table["relative_norm"].to_list() == [1.0, 0.0]
    assert table["nu_epsilon"].to_list() == pytest.approx([0, 0], abs=1e-5)
    assert table["nu_r"].to_list() == pytest.approx([1, 1])
    assert table["kind"].to_list() == ["shared", "shared"]


def test_base_only_latents_are_found_as_tuned_only_ones_are():
    base = torch.rand(500, 2, generator=torch.Generator().manual_seed(0))
    streams = torch.stack([base, base * torch.tensor([1.0, 0.0])], dim=1)
    coder = axes(base=[1.0, 1.0], tuned=[1.0, 0.0])
    coder = replace(coder, W_enc=coder.W_enc.flip(0))
    assert compare(coder, moments(coder, [streams]))["kind"].to_list() == ["shared", "base only"]


def test_a_latent_that_never_fires_is_dead_whatever_its_norms(by_hand):
    table = compare(by_hand, moments(by_hand, [torch.tensor([[[2.0, 0.0], [4.0, 0.0]]])]))
    assert table["kind"].to_list() == ["shared", "dead"]
    assert np.isnan(table["mean_active"][1])
    assert LATENTS.checked(table) is table


def test_quality_by_hand(by_hand):
    # Base rows (2, 1) and (0, 0): the reconstruction lacks the 1, of a distance from the mean of 2 * (1 + 1 / 4).
    streams = torch.tensor([[[2.0, 1.0], [4.0, 8.0]], [[0.0, 0.0], [0.0, 0.0]]])
    table = CROSSCODER_QUALITY.checked(quality(moments(by_hand, [streams])))
    assert table["explained_variance"].to_list() == pytest.approx([1 - 1 / 2.5, 1.0])
    assert table["l0"].to_list() == [1.0, 1.0]
    assert table["dead_share"].to_list() == [0.0, 0.0]


def test_a_stream_that_does_not_vary_has_no_explained_variance(by_hand):
    table = quality(moments(by_hand, [torch.zeros(3, 2, 2)]))
    assert table["explained_variance"].is_nan().all()
    assert table["dead_share"].to_list() == [1.0, 1.0]
