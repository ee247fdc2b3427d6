"""Small SAEs made by hand, and contrasts of random texts."""

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import pytest
import torch

from lab.models.load import Model
from probes.attribution.contrast import CONTRASTS
from probes.capture.site import Site
from probes.sae.dictionary import Sae

with warnings.catch_warnings():
    # SAELens imports a module that TransformerLens deprecates.
    warnings.simplefilter("ignore", DeprecationWarning)
    from sae_lens import StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

D_MODEL, D_SAE = 32, 48


@dataclass(frozen=True)
class MadeSae:
    """Random weights; about half of a standard SAE's features are active, and `k` of a TopK one's."""

    d_in: int = D_MODEL
    k: int | None = None

    def __call__(self, site: Site, seed: int = 0) -> Sae:
        common = {"d_in": self.d_in, "d_sae": D_SAE, "dtype": "float32", "device": "cpu"}
        if self.k is None:
            coder = StandardSAE(StandardSAEConfig(**common, apply_b_dec_to_input=False))
        else:
            coder = TopKSAE(
                TopKSAEConfig(**common, k=self.k, rescale_acts_by_decoder_norm=False, apply_b_dec_to_input=False)
            )
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in coder.parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw) / self.d_in**0.5)
        coder.eval().requires_grad_(False)
        return Sae(name=f"made-{seed}", site=site, coder=coder, trained_on=None, digest=f"{seed:016d}")


@pytest.fixture(scope="session")
def standard() -> Callable[..., Sae]:
    """(site, seed) -> a standard SAE."""
    return MadeSae()


@pytest.fixture(scope="session")
def top_k() -> Callable[..., Sae]:
    """(site, seed) -> a TopK SAE of four features a token."""
    return MadeSae(k=4)


def made_contrasts(n_texts: int, seed: int = 0, longest: int = 8) -> pl.DataFrame:
    """Random texts of the byte tokenizer, two a problem, with one to three tokens on each side."""
    draw = random.Random(seed)
    rows = []
    for text in range(n_texts):
        tokens = draw.sample(range(256), 6)
        n_toward = draw.randrange(1, 4)
        rows.append(
            {
                "problem_id": f"p{text // 2}",
                "tokens": [draw.randrange(256) for _ in range(draw.randrange(1, longest + 1))],
                "toward": tokens[:n_toward],
                "against": tokens[3 : 3 + draw.randrange(1, 4)],
            }
        )
    return CONTRASTS.frame(rows)


@pytest.fixture(scope="session")
def contrasts() -> pl.DataFrame:
    return made_contrasts(5)


def no_gradient_is_left(model: Model, sae: Sae) -> bool:
    weights = [*model.network.parameters(), *sae.coder.parameters()]
    return all(weight.grad is None and not weight.requires_grad for weight in weights)
