"""Resident memory does not grow with the number of tokens."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def peaks(n_tokens: int, out: Path) -> list[float]:
    """MiB before the store is filled, after that, and after an epoch was read."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "memory.py"), str(n_tokens), str(out)],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.slow
def test_ten_times_the_tokens_take_no_more_memory(tmp_path):
    small, large = peaks(100_000, tmp_path / "small"), peaks(1_000_000, tmp_path / "large")
    # A store of 256 MB, in shards of 8; the token ids of all texts are held, which are 4 MB.
    for few, many in zip(small, large, strict=True):
        assert many - few < 48, (small, large)
