"""A store of a tiny model on a dozen texts, of several shards."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest

from lab.models.load import Model
from lab.models.tiny import tiny_model
from lab.records.provenance import Provenance, file_digest, provenance
from probes.capture.site import TEXTS, CompletionTokens, Site
from probes.storage.fill import fill
from probes.storage.store import Plan, Store, plan, write_manifest

SITES = (Site(1), Site(0, "resid_pre"), Site(2))
# Forty rows of three sites of 32 floats.
SHARD_BYTES = 40 * 3 * 32 * 4


def made_texts(n_texts: int, seed: int = 0) -> pl.DataFrame:
    """Texts of random bytes and unequal length; one has an empty completion."""
    draw = random.Random(seed)
    return TEXTS.frame(
        [
            {
                "problem_id": f"p{text // 2}",
                "sample_index": text % 2,
                "prompt": [draw.randrange(256) for _ in range(draw.randrange(1, 9))],
                "completion": [draw.randrange(256) for _ in range(0 if text == 3 else draw.randrange(5, 30))],
            }
            for text in range(n_texts)
        ]
    )


def vouched(store: Store) -> Store:
    """`store` with a manifest that tells of its files as they are now."""
    now = replace(store, files={name: file_digest(store.path / name) for name in store.files})
    write_manifest(now)
    return now


def made_by(planned: Plan) -> Provenance:
    return provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0)


class Case(NamedTuple):
    """What a store is made of."""

    model: Model
    texts: pl.DataFrame
    plan: Plan

    def fill(self, out: Path, **options) -> Store:
        return fill(self.model, self.texts, self.plan, out, made_by(self.plan), **options)


@pytest.fixture(scope="session")
def case() -> Case:
    model, texts = tiny_model("llama", seed=5, n_layers=3), made_texts(12)
    # Two or three texts a pass.
    return Case(model, texts, plan(model, texts, SITES, CompletionTokens(), shard_bytes=SHARD_BYTES, batch_tokens=64))


@pytest.fixture
def store(case, tmp_path) -> Store:
    """A finished store, the test's own."""
    return case.fill(tmp_path / "store")


@pytest.fixture(scope="session")
def files() -> Callable[[Path], dict[str, bytes]]:
    """Name -> bytes of every file under a directory."""
    return lambda out: {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="session")
def stamps() -> Callable[[Path], dict[str, int]]:
    """Name -> when it was last written, of every file under a directory."""
    return lambda out: {
        str(path.relative_to(out)): path.stat().st_mtime_ns for path in sorted(out.rglob("*")) if path.is_file()
    }
