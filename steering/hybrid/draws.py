"""draws: random choices of a hybrid, by a row's key and the step alone."""

from typing import NewType

import numpy as np
import torch
from jaxtyping import Int, UInt64
from torch import Tensor

from lab.seeds import uniforms

Stream = NewType("Stream", np.uint64)
"""Keeps the draws of one kind apart from those of another, and from those that route and choose tokens."""
LIKELY_TOKEN = Stream(np.uint64(0x3C3C3C3C3C3C3C3C))
CANDIDATE = Stream(np.uint64(0x5A5A5A5A5A5A5A5A))
CATEGORY = Stream(np.uint64(0x6969696969696969))


def draws(
    stream: Stream, keys: UInt64[np.ndarray, " row"], step: int, n: int, device: torch.device
) -> Int[Tensor, " row"]:
    """A uniform number from 0 to n - 1 for each row."""
    return torch.from_numpy((uniforms(keys ^ stream, step) * n).astype(np.int64)).to(device)
