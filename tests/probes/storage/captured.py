"""Fills a store on Ray, and stops for ever when its first shard is done.

    python captured.py OUT

A process of its own, for a test to kill.
"""

import signal
import sys
from pathlib import Path

import polars as pl
import torch

from lab.models.load import load
from lab.models.source import model_source
from lab.records.provenance import provenance
from lab.records.scale_out import Here, Ray
from lab.records.seeds import numpy_generator
from probes.capture.site import TEXTS, AllTokens, Site
from probes.storage.fill import fill
from probes.storage.store import Store, plan

N_TEXTS, LENGTH = 240, 100


def noise() -> pl.DataFrame:
    """Texts of random tokens of the chain world."""
    tokens = numpy_generator(0, "noise").integers(1, 23, (N_TEXTS, LENGTH)).tolist()
    return TEXTS.frame(
        [
            {"problem_id": f"p{text}", "sample_index": 0, "prompt": read[:10], "completion": read[10:]}
            for text, read in enumerate(tokens)
        ]
    )


def captured(out: Path, on: Here | Ray, on_progress=lambda *_: None) -> Store:
    """A store of organism zero's base, of some six shards."""
    model, texts = load(model_source("zero-base"), device=torch.device("cpu"), dtype=torch.float32), noise()
    planned = plan(model, texts, (Site(0), Site(1, "resid_pre")), AllTokens(), shard_bytes=2**22, batch_tokens=2**12)
    made_by = provenance("capture", planned, {}, device="cpu", dtype="float32", seed=0)
    return fill(model, texts, planned, out, made_by, on=on, on_progress=on_progress)


def main() -> None:
    captured(Path(sys.argv[1]), Ray(n_workers=1), lambda n_rows, _: signal.pause() if n_rows else None)


if __name__ == "__main__":
    main()
