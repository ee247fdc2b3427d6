"""Latent Scaling is least squares: by hand, against a solver, and unmoved by what should not move it."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.records.errors import EstimateError
from probes.crosscoder.compare import latent_scaling
from probes.crosscoder.crosscoder import Crosscoder, moments

from .conftest import SITE


def drawn(seed: int) -> tuple[Crosscoder, torch.Tensor]:
    """In double precision, so that sums over other batches agree."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    coder = Crosscoder(
        site=SITE,
        base_digest="base",
        tuned_digest="tuned",
        scale=normal(2).abs() + 0.1,
        W_enc=normal(2, 3, 6),
        b_enc=normal(6),
        W_dec=normal(6, 2, 3),
        b_dec=normal(2, 3),
        threshold=normal().abs(),
    )
    return coder, normal(40, 2, 3)


def slowly(coder: Crosscoder, streams: torch.Tensor) -> tuple[list[float], list[float]]:
    """Both ratios, latent by latent, by a solver of least squares on the targets written out."""
    latents = coder.encode(streams)
    reconstruction = coder.decode_scaled(latents)
    ratios = ([], [])
    for latent in range(coder.d_sae):
        rows, active = coder.W_dec[latent], latents[:, latent]
        own = int(rows[1].norm() > rows[0].norm())
        design = torch.outer(active, rows[own]).flatten()[:, None]
        for place, targets in enumerate(
            (
                coder.scaled(streams) - reconstruction + active[:, None, None] * rows,
                reconstruction - coder.b_dec,
            )
        ):
            strength = [
                float(torch.linalg.lstsq(design, targets[:, model].flatten()[:, None]).solution)
                if active.any()
                else float("nan")
                for model in (own, 1 - own)
            ]
            ratios[place].append(strength[1] / strength[0] if strength[0] > 0 else float("nan"))
    return ratios


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_the_closed_form_is_the_least_squares_of_a_solver(seed):
    coder, streams = drawn(seed)
    found = latent_scaling(coder, moments(coder, streams.split(7)))
    nu_epsilon, nu_r = slowly(coder, streams)
    close = {"rtol": 1e-6, "atol": 1e-8, "equal_nan": True}
    torch.testing.assert_close(found.nu_epsilon, torch.tensor(nu_epsilon, dtype=torch.float64), **close)
    torch.testing.assert_close(found.nu_r, torch.tensor(nu_r, dtype=torch.float64), **close)


def test_both_ratios_by_hand(by_hand):
    # One row, in the dictionary's units: base (2, 1), tuned (2, 4). Latent 0 is 0.5 * 2 + 0.5 * 2 = 2, latent 1 is 4.
    streams = torch.tensor([[[2.0, 1.0], [4.0, 8.0]]])
    found = latent_scaling(by_hand, moments(by_hand, [streams]))
    # Latent 0, 2 along axis 0 in both: no error is left in either, and both reconstructions hold it: 2 / 2 and 2 / 2.
    # Latent 1, 4 along axis 1: the base has a row of 0 and an error of 1 there, so 1 / 4 against 4 / 4; its
    # reconstruction has nothing there.
    assert found.nu_epsilon.tolist() == [1.0, 0.25]
    assert found.nu_r.tolist() == [1.0, 0.0]


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_how_a_latents_scale_is_shared_between_activation_and_rows_does_not_count(seed):
    coder, streams = drawn(seed)
    coder = replace(coder, threshold=torch.zeros((), dtype=torch.float64))
    factor = torch.linspace(0.2, 5, coder.d_sae, dtype=torch.float64)
    stretched = replace(
        coder, W_enc=coder.W_enc * factor, b_enc=coder.b_enc * factor, W_dec=coder.W_dec / factor[:, None, None]
    )
    one, other = (latent_scaling(each, moments(each, [streams])) for each in (coder, stretched))
    torch.testing.assert_close(one.nu_epsilon, other.nu_epsilon, equal_nan=True, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one.nu_r, other.nu_r, equal_nan=True, rtol=1e-6, atol=1e-8)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_which_model_is_called_base_does_not_count(seed):
    coder, streams = drawn(seed)
    swapped = replace(
        coder,
        scale=coder.scale.flip(0),
        W_enc=coder.W_enc.flip(0),
        W_dec=coder.W_dec.flip(1),
        b_dec=coder.b_dec.flip(0),
    )
    one = latent_scaling(coder, moments(coder, [streams]))
    other = latent_scaling(swapped, moments(swapped, [streams.flip(1)]))
    torch.testing.assert_close(one.nu_epsilon, other.nu_epsilon, equal_nan=True, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(one.nu_r, other.nu_r, equal_nan=True, rtol=1e-6, atol=1e-8)


def test_a_latent_that_never_fires_has_no_ratio(by_hand):
    streams = torch.tensor([[[2.0, 0.0], [4.0, 0.0]]])
    found = latent_scaling(by_hand, moments(by_hand, [streams]))
    assert found.nu_epsilon.isnan().tolist() == [False, True]
    assert found.nu_r.isnan().tolist() == [False, True]


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(5, 40))
def test_moments_do_not_depend_on_the_batches(seed, size):
    coder, streams = drawn(seed)
    one, other = moments(coder, [streams]), moments(coder, streams.split(size))
    assert one.n_rows == other.n_rows == 40
    for name in ("n_active", "sums", "squares", "along_error", "along_reconstruction", "squared_error"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name))
    distance = (coder.scaled(streams) - coder.scaled(streams).mean(dim=0)).square().sum(dim=(0, 2))
    torch.testing.assert_close(other.squared_distance, distance)


def test_moments_of_nothing_are_refused(by_hand):
    with pytest.raises(EstimateError, match="want at least one row of both streams"):
        moments(by_hand, [])
