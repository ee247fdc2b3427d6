"""Segments with planted clusters, and a store of every token of a tiny model."""

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
import torch

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.provenance import Provenance, provenance
from lab.tasks.problem import Problem
from probes.capture.site import TEXTS, AllTokens, Positions, Site
from probes.storage.fill import fill
from probes.storage.store import Store, plan
from probes.taxonomy.segments import SEGMENTS, SegmentMeans

SITES = (Site(0), Site(1))
ALL = AllTokens()
CHAINS = {
    "<6-0-4?": ("T6-0=6;6-4=2;A2", "T6-0=6;6-4=3;V2!;A2", "A2"),
    "<1+2+3?": ("T1+2=3;V3;3+3=6;A6", "T1+2=3;3+3=6;A6", "A6"),
    "<9-1-1?": ("T9-1=8;8-1=7;A7", "T9-1=8;V8;8-1=7;A7", "T9-1=7;7-1=6;A6"),
}


def bytes_of(text: str) -> list[int]:
    return list(text.encode())


def problem(prompt: str) -> Problem:
    return Problem(id=f"chain:{prompt[1:-1]}", prompt=prompt, answer="0", family="", source="chain")


PROBLEMS = {problem(prompt).id: problem(prompt) for prompt in CHAINS}


def made_texts(chains: dict[str, Sequence[str]] = CHAINS) -> pl.DataFrame:
    return TEXTS.frame(
        [
            {
                "problem_id": problem(prompt).id,
                "sample_index": index,
                "prompt": bytes_of(prompt),
                "completion": bytes_of(completion),
            }
            for prompt, completions in chains.items()
            for index, completion in enumerate(completions)
        ]
    )


def made_by() -> Provenance:
    return provenance("test", {}, {}, device="cpu", dtype="float32", seed=0)


@pytest.fixture(scope="session")
def model() -> Model:
    return tiny_model("llama", seed=3)


@pytest.fixture(scope="session")
def filled(model, tmp_path_factory):
    """Makes a store of the chains."""

    def made(rule: Positions = ALL, n_rows: int = 40) -> Store:
        texts = made_texts()
        planned = plan(model, texts, SITES, rule, shard_bytes=n_rows * len(SITES) * 32 * 4)
        return fill(model, texts, planned, tmp_path_factory.mktemp("stores") / "store", made_by())

    return made


@pytest.fixture(scope="session")
def store(filled) -> Store:
    found = filled()
    assert len(found.portions) > 2
    return found


def planted(
    n_clusters: int, n_segments: int = 1000, d_model: int = 24, noise: float = 0.5, *, seed: int = 0
) -> tuple[SegmentMeans, np.ndarray]:
    """Segments around directions far from the origin, of three labels a problem at random, and the cluster of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(n_clusters, d_model, generator=generator), dim=1)
    cluster = torch.randint(n_clusters, (n_segments,), generator=generator)
    means = 7 + 3 * (centres[cluster] + noise * torch.randn(n_segments, d_model, generator=generator) / d_model**0.5)
    segments = SEGMENTS.frame(
        [
            {
                "text": row // 5,
                "problem_id": f"p{row // 10}",
                "first": 4 + 3 * (row % 5),
                "last": 6 + 3 * (row % 5),
                "words": f"wl{label} x",
                "label": f"l{label}",
            }
            for row, label in enumerate(cluster.tolist())
        ]
    )
    data = SegmentMeans(site=Site(0), segments=segments, means=means, model="planted", model_digest="0" * 16)
    return data, cluster.numpy()
