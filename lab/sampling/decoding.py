"""Decoding: how a next token is chosen from logits, given one uniform random number a row."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.records.errors import DecodingError


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoding:
    """Limits and distribution of a completion.

    >>> el.sample(base, "<8-1+9?T", n=2, decoding=el.Decoding(temperature=0.0))["text"].to_list()
    ['8-1=7;7+9=6;V6;A6', '8-1=7;7+9=6;V6;A6']
    """

    temperature: float = 1.0
    """Of sampling: the logits are divided by it; 0 takes the most likely token (greedy)."""
    top_p: float = 1.0
    """Keep the smallest set of most likely tokens whose probability reaches this; 1 keeps all (use 1 for coverage)."""
    max_new_tokens: int = 96
    """Longest completion."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion; the text of the trace is cut before them."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise DecodingError(f"temperature {self.temperature}: want 0 (greedy) or a positive number")
        if not 0 < self.top_p <= 1:
            raise DecodingError(f"top_p {self.top_p}: want a number above 0 and at most 1")
        if self.max_new_tokens < 1:
            raise DecodingError(f"max_new_tokens {self.max_new_tokens}: want at least 1")
        if any(not text for text in self.stop):
            raise DecodingError("an empty stop string would end every completion: remove it")


GREEDY = Decoding(temperature=0.0)


class Pick(NamedTuple):
    """One chosen token a row."""

    tokens: Int[Tensor, " row"]
    logprobs: Float[Tensor, " row"]
    """Natural log-probability of the token under the plain logits: temperature 1, nothing cut off."""
    finite: Bool[Tensor, " row"]
    """False where the logits hold NaN or +inf, or nothing but -inf; the row's other entries then mean nothing."""


def pick(logits: Float[Tensor, "row d_vocab"], uniform: Float[Tensor, " row"], decoding: Decoding) -> Pick:
    """Chooses a token in each row by inverting the cumulative distribution at `uniform` in [0, 1).

    One number a token, so a sample depends on the logits of its own row and on nothing else in the batch.
    """
    logits = logits.float()
    total = logits.logsumexp(dim=-1)
    finite = total.isfinite()
    if decoding.temperature == 0:
        tokens = logits.argmax(dim=-1)
    else:
        weights = torch.softmax(logits / decoding.temperature, dim=-1)
        if decoding.top_p < 1:
            weights = nucleus(weights, decoding.top_p)
        # MPS has no float64; elsewhere it keeps the tail of a large vocabulary reachable.
        cumulative = weights.to(torch.float32 if weights.device.type == "mps" else torch.float64).cumsum(dim=-1)
        threshold = uniform.to(cumulative.dtype).to(cumulative.device) * cumulative[:, -1]
        tokens = torch.searchsorted(cumulative, threshold[:, None], right=True)[:, 0]
        tokens = tokens.clamp(max=logits.shape[-1] - 1)
    logprobs = logits.gather(1, tokens[:, None])[:, 0] - total
    return Pick(tokens, logprobs, finite)


def nucleus(weights: Float[Tensor, "row d_vocab"], top_p: float) -> Float[Tensor, "row d_vocab"]:
    """`weights` with everything outside the nucleus set to zero (Holtzman et al. 2020); not renormalised."""
    # Stable, so that which of equal weights are inside does not depend on the batch.
    ordered, index = weights.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(dim=-1) - ordered >= top_p
    return weights.scatter(1, index, ordered.masked_fill(outside, 0.0))
