"""Where random numbers come from: every generator is derived from a seed and a name, and none is global."""

import hashlib

import numpy as np
import torch
from jaxtyping import Float64, UInt64


def child_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the thing called `names` under `seed`.

    It is a hash, so neighbouring seeds and neighbouring names share nothing (adding an index to a seed would make
    item i + 1 of seed s equal item i of seed s + 1).
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for `names` under `seed`; draw on the CPU and move, so devices agree."""
    return torch.Generator().manual_seed(child_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for `names` under `seed`."""
    return np.random.default_rng(child_seed(seed, *names))


def uniforms(keys: UInt64[np.ndarray, " batch"], step: int) -> Float64[np.ndarray, " batch"]:
    """One number in [0, 1) for each key at `step`: a pure function of the two, whatever the batch.

    Counter-based: the splitmix64 output function (Steele, Lea and Flood 2014) applied to key + (step + 1) times the
    golden-ratio increment; the top 53 bits become the double.
    """
    with np.errstate(over="ignore"):
        state = keys + np.uint64(step + 1) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
