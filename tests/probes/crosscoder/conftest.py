"""Two stores of planted streams: sparse sums of directions that both models have, or only one of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from lab.records.provenance import file_digest, provenance
from lab.records.seeds import torch_generator
from lab.records.tables import write_table
from probes.capture.site import TEXTS, AllTokens, Site, texts_digest
from probes.crosscoder.crosscoder import Crosscoder, Paired
from probes.storage.store import INDEX, TEXTS_FILE, Plan, Portion, Store, index_name, shard_name, write_manifest
from probes.tables import LATENTS

SITE = Site(1)
MADE_BY = provenance("planted", {}, {}, device="cpu", dtype="float32", seed=0)
N_TOKENS, N_SHARDS = 20, 4


def planted_store(path: Path, rows: Tensor, digest: str) -> Store:
    """A finished store of `rows`, which are the tokens of texts of 20, each of a problem of its own."""
    n_texts = len(rows) // N_TOKENS
    texts_a_shard = -(-n_texts // N_SHARDS)
    texts = TEXTS.frame(
        [
            {"problem_id": f"p{text}", "sample_index": 0, "prompt": [1], "completion": [2] * (N_TOKENS - 1)}
            for text in range(n_texts)
        ]
    )
    planned = Plan(
        model=f"planted-{digest}",
        model_digest=digest,
        weights="float32",
        device="cpu",
        d_model=rows.shape[1],
        sites=(SITE,),
        positions=AllTokens(),
        stored="float32",
        texts=texts_digest(texts),
        shard_bytes=texts_a_shard * N_TOKENS * rows.shape[1] * 4,
        batch_tokens=1024,
    )
    write_table(path / TEXTS_FILE, texts, TEXTS, MADE_BY)
    portions, names = [], [TEXTS_FILE]
    for number, first in enumerate(range(0, n_texts, texts_a_shard)):
        n_here = min(texts_a_shard, n_texts - first)
        portions.append(Portion(first, n_here, n_here * N_TOKENS))
        write_shard(path, number, rows[first * N_TOKENS : (first + n_here) * N_TOKENS], first)
        names += [shard_name(number), index_name(number)]
    store = Store(path=path, plan=planned, made_by=MADE_BY, portions=tuple(portions), files={})
    finished = replace(store, files={name: file_digest(path / name) for name in names})
    write_manifest(finished)
    return finished


def write_shard(path: Path, number: int, rows: Tensor, first: int, shift: int = 0) -> None:
    """One shard and its index; `shift` moves the positions that the index names."""
    index = INDEX.frame(
        [
            {
                "shard": number,
                "row": row,
                "text": first + row // N_TOKENS,
                "problem_id": f"p{first + row // N_TOKENS}",
                "sample_index": 0,
                "position": row % N_TOKENS + shift,
                "token": 2,
            }
            for row in range(len(rows))
        ]
    )
    write_table(path / index_name(number), index, INDEX, MADE_BY)
    (path / shard_name(number)).parent.mkdir(exist_ok=True)
    save_file({str(SITE): rows.contiguous()}, path / shard_name(number))


class Planted(NamedTuple):
    """Streams whose directions are known."""

    paired: Paired
    directions: Tensor
    """Unit rows."""
    kinds: tuple[str, ...]
    """Of every direction."""


def planted(out: Path, *, n_shared: int, n_base: int, n_tuned: int, d_model: int, n_texts: int, seed: int) -> Planted:
    """Each direction is there at one token in twelve, by 1 to 3; the tuned stream is half as long again."""
    generator = torch_generator(seed, "planted")
    kinds = ("shared",) * n_shared + ("base only",) * n_base + ("tuned only",) * n_tuned
    directions = normalize(torch.randn(len(kinds), d_model, generator=generator), dim=1)
    shape = (n_texts * N_TOKENS, len(kinds))
    there = torch.rand(shape, generator=generator) < 1 / 12
    strengths = there * (1 + 2 * torch.rand(shape, generator=generator))
    stores = []
    for name, absent, scale in (("base", "tuned only", 1.0), ("tuned", "base only", 1.5)):
        has = torch.tensor([kind != absent for kind in kinds])
        # A little noise, so that no two rows are equal.
        noise = 0.01 * torch.randn(len(strengths), d_model, generator=generator)
        rows = scale * ((strengths * has) @ directions + 0.5 + noise)
        stores.append(planted_store(out / name, rows, name))
    return Planted(Paired(base=stores[0], tuned=stores[1], site=SITE), directions, kinds)


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Planted:
    """A few shards; no test changes them."""
    return planted(tmp_path_factory.mktemp("small"), n_shared=4, n_base=1, n_tuned=1, d_model=6, n_texts=90, seed=3)


@pytest.fixture(scope="session")
def by_hand() -> Crosscoder:
    """Latent 0 is shared, and written along axis 0; latent 1 is tuned only, along axis 1."""
    return Crosscoder(
        site=SITE,
        base_digest="base",
        tuned_digest="tuned",
        scale=torch.tensor([1.0, 0.5]),
        W_enc=torch.tensor([[[0.5, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, 1.0]]]),
        b_enc=torch.zeros(2),
        W_dec=torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]),
        b_dec=torch.zeros(2, 2),
        threshold=torch.tensor(0.25),
    )


@pytest.fixture(scope="session")
def frames() -> Callable[..., pl.DataFrame]:
    """`LATENTS` rows of given kinds and relative norms."""

    def made(kinds: list[str], norms: list[float] | None = None) -> pl.DataFrame:
        return LATENTS.frame(
            [
                {
                    "latent": latent,
                    "relative_norm": norm,
                    "cosine": 1.0,
                    "nu_epsilon": 1.0,
                    "nu_r": 1.0,
                    "firing_share": 0.0 if kind == "dead" else 0.5,
                    "mean_active": 1.0,
                    "kind": kind,
                    "placebo_share": float("nan"),
                }
                for latent, (kind, norm) in enumerate(zip(kinds, norms or [0.5] * len(kinds), strict=True))
            ]
        )

    return made
