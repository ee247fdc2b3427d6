"""The decoding loop: one batch, one token a row a step, whoever proposes the tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.records.errors import DecodingError
from lab.records.seeds import uniforms
from lab.sampling.decoder import Batch, OpenDecoder, Proposal
from lab.sampling.decoding import Decoding, pick
from lab.sampling.trace import ROUTES

TUNED = ROUTES.index("tuned")
LEAVE_SHARE = 0.25
"""Rows leave the batch when this share of it has finished: copying the cache for every single row would cost more."""


class Completion(NamedTuple):
    """What one row wrote."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    routes: tuple[int, ...]
    categories: tuple[int, ...]
    content_bits: tuple[float, ...]
    text: str
    stop: str


@dataclass(slots=True)
class Growing:
    """A row on its way."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    routes: list[int] = field(default_factory=list)
    categories: list[int] = field(default_factory=list)
    content_bits: list[float] = field(default_factory=list)
    stop: str | None = None


@torch.inference_mode()
def decode(
    open_rows: OpenDecoder,
    batch: Batch,
    decoding: Decoding,
    *,
    tokenizer: PreTrainedTokenizerBase,
    end_tokens: frozenset[int],
) -> list[Completion]:
    """Completes every row of `batch`; the result does not depend on which rows share the batch.

    The random number of a token is a function of the row's key and the step. Raises DecodingError where logits cannot
    be sampled from.
    """
    rows = open_rows(batch)
    device = batch.owner.device
    texts = [Growing() for _ in batch.keys]
    present = np.arange(len(texts))
    for step in range(decoding.max_new_tokens):
        proposal = rows.propose()
        numbers = torch.from_numpy(uniforms(batch.keys[present], step))
        tokens, logprobs, finite = pick(proposal.logits, numbers, decoding)
        columns = zip(
            present,
            tokens.tolist(),
            logprobs.tolist(),
            proposal.route.tolist(),
            finite.tolist(),
            *crossed(proposal, tokens),
            strict=True,
        )
        for index, token, logprob, route, is_finite, category, bits in columns:
            growing = texts[index]
            if growing.stop is not None:
                continue
            if not is_finite:
                raise DecodingError(
                    f"the model gave logits that are not finite at token {step} of row {index}: its weights or the "
                    "precision cannot carry this input; try --dtype float32 with another --out"
                )
            growing.tokens.append(token)
            growing.logprobs.append(logprob)
            growing.routes.append(route)
            growing.categories.append(category)
            growing.content_bits.append(bits)
            if token in end_tokens:
                growing.stop = "eos"
            elif decoding.stop and first_stop(decoded(tokenizer, growing.tokens), decoding.stop) is not None:
                growing.stop = "stop"
        running = np.array([texts[index].stop is None for index in present])
        if not running.any() or step + 1 == decoding.max_new_tokens:
            break
        if running.mean() <= 1 - LEAVE_SHARE:
            kept = torch.from_numpy(np.flatnonzero(running)).to(device)
            rows.keep(kept)
            present, tokens = present[running], tokens[kept]
        rows.append(tokens)
    return [completion(growing, decoding, tokenizer) for growing in texts]


def crossed(proposal: Proposal, tokens: Int[Tensor, " row"]) -> tuple[list[int], list[float]]:
    """(category, bits) of each chosen token that came from a second model; -1 and 0 where none did.

    A token that the second model wrote costs -log2 of the probability that the first one gave it, at temperature 1.
    """
    if proposal.crossing is None:
        return [-1] * len(tokens), [0.0] * len(tokens)
    category, choice_bits, own_logits = proposal.crossing
    written = proposal.route == TUNED
    if not bool(written.any()):
        return category.tolist(), choice_bits.tolist()
    own = own_logits.float()
    nats = own.logsumexp(dim=-1) - own.gather(1, tokens[:, None])[:, 0]
    # Rounding puts the surprisal of a certain token a little below 0.
    return category.tolist(), torch.where(written, nats.clamp(min=0) / log(2), choice_bits).tolist()


def completion(growing: Growing, decoding: Decoding, tokenizer: PreTrainedTokenizerBase) -> Completion:
    """The finished row, its text cut before a stop string."""
    text = decoded(tokenizer, growing.tokens)
    cut = first_stop(text, decoding.stop)
    return Completion(
        tokens=tuple(growing.tokens),
        logprobs=tuple(growing.logprobs),
        routes=tuple(growing.routes),
        categories=tuple(growing.categories),
        content_bits=tuple(growing.content_bits),
        text=text if cut is None else text[:cut],
        stop=growing.stop or "length",
    )


def decoded(tokenizer: PreTrainedTokenizerBase, tokens: list[int]) -> str:
    """The text of some tokens, without special ones."""
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    assert isinstance(text, str), "one list of tokens decodes to one text"
    return text


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the earliest stop string begins, if any occurs."""
    found = [position for position in (text.find(stop) for stop in stops) if position >= 0]
    return min(found, default=None)
