"""Two small stores of the same texts, by two tiny models, an SAE of random weights, and labels of random tokens."""

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.provenance import provenance
from probes.capture.site import TEXTS, CompletionTokens, Positions, Site
from probes.sae.dictionary import Sae
from probes.scores.labels import LABELS
from probes.storage.fill import fill
from probes.storage.store import Store, plan, read_rows

with warnings.catch_warnings():
    # sae_lens 6.54 imports a module that transformer_lens 3.9 deprecates.
    warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
    from sae_lens import SAE, StandardSAE, StandardSAEConfig, TopKSAE, TopKSAEConfig

SITE, D_MODEL, D_SAE = Site(1), 32, 24
# Rows that fit into a shard.
MOST_ROWS = 40


def made_sae(k: int | None = 5, *, seed: int = 0, d_model: int = D_MODEL, d_sae: int = D_SAE, site: Site = SITE) -> Sae:
    """Random directions; ReLU without `k`. Its feature 0 never fires."""
    if k is None:
        coder: SAE = StandardSAE(StandardSAEConfig(d_in=d_model, d_sae=d_sae))
    else:
        coder = TopKSAE(TopKSAEConfig(d_in=d_model, d_sae=d_sae, k=k))
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(d_sae, d_model, generator=generator)
    coder.load_state_dict(
        {
            "W_dec": weights,
            "W_enc": weights.T.contiguous(),
            "b_enc": torch.cat([torch.full((1,), -1e6), torch.full((d_sae - 1,), -0.5)]),
            "b_dec": torch.zeros(d_model),
        }
    )
    coder.requires_grad_(False)
    return Sae(name="tiny-sae", site=site, coder=coder, trained_on=None, digest="0" * 16)


def made_texts(n_texts: int = 12, seed: int = 0) -> pl.DataFrame:
    """Texts of random letters, two a problem; one has an empty completion."""
    draw = random.Random(seed)

    def letters(n: int) -> list[int]:
        return [draw.randrange(97, 123) for _ in range(n)]

    return TEXTS.frame(
        [
            {
                "problem_id": f"p{text // 2}",
                "sample_index": text % 2,
                "prompt": letters(draw.randrange(1, 9)),
                "completion": letters(0 if text == 3 else draw.randrange(5, 30)),
            }
            for text in range(n_texts)
        ]
    )


def made_store(model: Model, texts: pl.DataFrame, out: Path, rule: Positions | None = None) -> Store:
    rule = rule or CompletionTokens()
    planned = plan(model, texts, (SITE, Site(0)), rule, shard_bytes=MOST_ROWS * 2 * D_MODEL * 4)
    made_by = provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0)
    return fill(model, texts, planned, out, made_by)


def made_labels(store: Store, seed: int = 0, share: float = 0.4) -> pl.DataFrame:
    """Three labels, each on some tokens, whether stored or not."""
    generator = np.random.default_rng(seed)
    texts = pl.read_parquet(store.path / "texts.parquet")
    rows = [
        {"text": text, "position": position, "label": label}
        for text, (prompt, completion) in enumerate(texts.select("prompt", "completion").iter_rows())
        for position in range(len(prompt) + len(completion))
        for label in ("wait", "but", "hmm")
        if generator.random() < share
    ]
    return LABELS.frame(rows)


class Everything(NamedTuple):
    """All of a store in memory, as no streaming code has it."""

    features: np.ndarray
    """row d_sae, float64."""
    stream: np.ndarray
    index: pl.DataFrame


def everything(store: Store, sae: Sae) -> Everything:
    stream = torch.cat([read_rows(store, sae.site, number) for number in range(len(store.portions))])
    features = sae.encode(stream).double().numpy()
    return Everything(features, stream.numpy(), store.index().collect())


@pytest.fixture(scope="session")
def sae() -> Sae:
    return made_sae()


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model("llama", seed=5)


@pytest.fixture(scope="session")
def store(model, tmp_path_factory) -> Store:
    return made_store(model, made_texts(), tmp_path_factory.mktemp("base") / "store")


@pytest.fixture(scope="session")
def tuned_store(tmp_path_factory) -> Store:
    return made_store(tiny_model("llama", seed=6), made_texts(), tmp_path_factory.mktemp("tuned") / "store")


@pytest.fixture(scope="session")
def labels(store) -> pl.DataFrame:
    return made_labels(store)


@pytest.fixture(scope="session")
def saes() -> Callable[..., Sae]:
    """Another SAE: `saes(k, seed=..., d_model=..., d_sae=..., site=...)`."""
    return made_sae


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Callable[..., Store]:
    """Another store: `stores(model, texts, rule)`."""
    return lambda model, texts=None, rule=None: made_store(
        model, made_texts() if texts is None else texts, tmp_path_factory.mktemp("other") / "store", rule
    )


@pytest.fixture(scope="session")
def label_maker() -> Callable[..., pl.DataFrame]:
    return made_labels


@pytest.fixture(scope="session")
def read_all() -> Callable[[Store, Sae], Everything]:
    return everything


@pytest.fixture(scope="session")
def text_maker() -> Callable[..., pl.DataFrame]:
    return made_texts
