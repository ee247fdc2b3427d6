"""Fills a store of many tokens of an organism, reads an epoch of it, and prints the peaks of resident memory in MiB.

    python memory.py N_TOKENS OUT

A process of its own, since a peak never falls.
"""

import resource
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch

from lab.models.load import load
from lab.models.source import model_source
from lab.records.provenance import provenance
from lab.records.seeds import numpy_generator
from probes.capture.site import TEXTS, AllTokens, Site
from probes.storage.fill import fill
from probes.storage.store import plan, shuffled

LENGTH = 100
SITE = Site(0)


def noise(n_tokens: int) -> pl.DataFrame:
    """Texts of `LENGTH` random tokens of the chain world."""
    n_texts = n_tokens // LENGTH
    tokens = numpy_generator(0, "noise").integers(1, 23, (n_texts, LENGTH), dtype=np.int32)
    return TEXTS.checked(
        pl.DataFrame(
            {
                "problem_id": [f"p{text}" for text in range(n_texts)],
                "sample_index": np.zeros(n_texts, dtype=np.int32),
                "prompt": tokens[:, :10],
                "completion": tokens[:, 10:],
            },
            schema_overrides={"prompt": pl.Array(pl.Int32, 10), "completion": pl.Array(pl.Int32, LENGTH - 10)},
        ).with_columns(pl.col("prompt", "completion").arr.to_list())
    )


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    n_tokens, out = int(sys.argv[1]), Path(sys.argv[2])
    model = load(model_source("zero-base"), device=torch.device("cpu"), dtype=torch.float32)
    texts = noise(n_tokens)
    planned = plan(model, texts, (SITE,), AllTokens(), stored="bfloat16", shard_bytes=2**23, batch_tokens=2**12)
    made_by = provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0)
    at_first = peak()
    store = fill(model, texts, planned, out, made_by)
    filled = peak()
    n_rows = sum(len(batch) for batch in shuffled(store, SITE, 1024, seed=0))
    assert n_rows == store.n_rows == n_tokens
    print(at_first, filled, peak())


if __name__ == "__main__":
    main()
