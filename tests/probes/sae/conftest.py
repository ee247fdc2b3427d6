"""A tiny model, a store of two of its streams on random texts, and small recipes."""

import random
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from sae_lens import SAE, JumpReLUSAE, StandardSAE
from sae_lens.saes.jumprelu_sae import JumpReLUSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAEConfig
from torch import Tensor

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.provenance import provenance
from probes.capture.site import TEXTS, AllTokens, Site
from probes.sae.architecture import Architecture, Recipe, Training
from probes.storage.fill import fill
from probes.storage.store import Store, plan

CPU = torch.device("cpu")
D_MODEL, D_SAE = 32, 48
SITES = (Site(1), Site(2, "resid_pre"))
TRAINING = Training(n_tokens=20 * 32, batch_size=32, held_out_share=0.3, dead_after=5)


def made_texts(n_problems: int = 24) -> pl.DataFrame:
    """Two texts a problem; one completion is empty."""
    draw = random.Random(0)
    return TEXTS.frame(
        [
            {
                "problem_id": f"p{text // 2}",
                "sample_index": text % 2,
                "prompt": [draw.randrange(256) for _ in range(draw.randrange(1, 6))],
                "completion": [draw.randrange(256) for _ in range(0 if text == 5 else draw.randrange(4, 12))],
            }
            for text in range(2 * n_problems)
        ]
    )


def filled(model: Model, out: Path, **options: object) -> Store:
    texts = made_texts()
    planned = plan(model, texts, SITES, AllTokens(), shard_bytes=2 * 150 * D_MODEL * 4, **options)
    return fill(model, texts, planned, out, provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0))


def recipe(architecture: Architecture, **changes: object) -> Recipe:
    return Recipe(**{"site": SITES[0], "architecture": architecture, "d_sae": D_SAE, "training": TRAINING} | changes)


def fill_weights(coder: SAE, seed: int = 0) -> SAE:
    """`coder` with random weights, on a scale at which features fire."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in coder.named_parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * (0.1 if name.startswith("b_") else 0.5))
            if name == "threshold":
                tensor.abs_()
    return coder


def metadata(hook_name: str | None = "blocks.1.hook_resid_post") -> SAEMetadata:
    return SAEMetadata(model_name="tiny") if hook_name is None else SAEMetadata(model_name="tiny", hook_name=hook_name)


def jumprelu(d_model: int = D_MODEL, **options: object) -> JumpReLUSAE:
    options = {"metadata": metadata()} | options
    return fill_weights(JumpReLUSAE(JumpReLUSAEConfig(d_in=d_model, d_sae=D_SAE, **options)))


def standard(W_enc: Tensor, W_dec: Tensor, b_dec: Tensor) -> StandardSAE:
    """A ReLU SAE with these weights and no encoder bias, which does not subtract its decoder bias."""
    d_sae, d_model = W_dec.shape
    coder = StandardSAE(StandardSAEConfig(d_in=d_model, d_sae=d_sae, apply_b_dec_to_input=False, metadata=metadata()))
    with torch.no_grad():
        for mine, given in ((coder.W_enc, W_enc), (coder.W_dec, W_dec), (coder.b_dec, b_dec)):
            mine.copy_(given)
    return coder


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model("llama", seed=5, n_layers=3)


@pytest.fixture(scope="session")
def store(model, tmp_path_factory) -> Store:
    """Finished, and changed by no test."""
    return filled(model, tmp_path_factory.mktemp("sae") / "store")


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    """Name -> bytes of every file under a directory."""
    return lambda out: {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }
