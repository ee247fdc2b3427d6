"""sample: completions of problems by a model, or by anything that opens rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed, uniforms
from lab.sampling.decoder import Batch, CachedDecoder, OpenDecoder, Proposal, is_out_of_memory, left_padded
from lab.sampling.trace import ROUTES, Decoding, Trace, pick
from lab.tasks.problem import Problem

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


@dataclass(frozen=True, slots=True)
class Request:
    """One completion to be written."""

    problem: Problem
    sample_index: int


def sample(
    model: Model,
    problems: Sequence[Problem],
    n_samples: int,
    decoding: Decoding,
    *,
    seed: int,
    batch_size: int = 256,
    open_rows: OpenDecoder | None = None,
    also_ends: frozenset[int] = frozenset(),
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Trace]:
    """`n_samples` completions of each problem, ordered by problem, then by sample.

    The random number of a token is a function of (seed, problem id, sample index, step): another batch size, another
    order or a resumed run draws the same numbers. (Floating-point sums depend on the shape of a batch in their last
    digits, so in float32 a token changes where its number falls within about 1e-6 of a boundary; bfloat16 is coarser.)
    `batch_size` counts rows; when memory runs out it is halved and the work goes on. `open_rows` puts something else
    than the model itself in the loop, such as a hybrid; `model` then gives the tokenizer. Texts end at the model's end
    tokens and at `also_ends`. `on_progress` is told the number of completions added.

    Raises DecodingError for an empty request, a prompt of no tokens or beyond the model's context, or logits that are
    not finite.
    """
    if not problems or n_samples < 1 or batch_size < 1:
        raise DecodingError(
            f"{len(problems)} problems x {n_samples} samples in batches of {batch_size}: want at least one of each"
        )
    requests = [Request(problem, index) for problem in problems for index in range(n_samples)]
    prompt_ids = {problem.prompt: encode_prompt(model, problem.prompt, decoding) for problem in problems}
    # Prompts of like length share a batch, which keeps the padding short.
    order = sorted(range(len(requests)), key=lambda index: len(prompt_ids[requests[index].problem.prompt]))
    opener = open_rows or partial(CachedDecoder, model)
    ends = end_tokens(model) | also_ends
    traces: list[Trace | None] = [None] * len(requests)
    start = 0
    on_progress(0)
    while start < len(order):
        chosen = order[start : start + batch_size]
        try:
            written = complete(model, opener, [requests[index] for index in chosen], prompt_ids, decoding, ends, seed)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(chosen) == 1:
                raise DecodingError(
                    f"memory ran out with a single row on {model.device}: use a smaller model or --dtype, a shorter "
                    "--max-new-tokens, or another --device"
                ) from error
            batch_size = len(chosen) // 2
            continue
        for index, trace in zip(chosen, written, strict=True):
            traces[index] = trace
        on_progress(len(chosen))
        start += len(chosen)
    return [trace for trace in traces if trace is not None]


def complete(
    model: Model,
    open_rows: OpenDecoder,
    requests: Sequence[Request],
    prompt_ids: dict[str, list[int]],
    decoding: Decoding,
    ends: frozenset[int],
    seed: int,
) -> Iterator[Trace]:
    """One batch of requests."""
    prompts = list(dict.fromkeys(request.problem.prompt for request in requests))
    batch = make_batch(model, [prompt_ids[prompt] for prompt in prompts], requests, prompts, seed)
    written = decode(open_rows, batch, decoding, tokenizer=model.tokenizer, end_tokens=ends)
    return (
        Trace(problem_id=request.problem.id, sample_index=request.sample_index, **row._asdict())
        for request, row in zip(requests, written, strict=True)
    )


def make_batch(
    model: Model, prompt_ids: Sequence[list[int]], requests: Sequence[Request], prompts: Sequence[str], seed: int
) -> Batch:
    """Left-padded distinct prompts, and a row for each request."""
    padded = left_padded(model, prompt_ids)
    index = {prompt: position for position, prompt in enumerate(prompts)}
    owner = torch.tensor([index[request.problem.prompt] for request in requests], device=model.device)
    keys = np.array(
        [child_seed(seed, request.problem.id, request.sample_index) for request in requests], dtype=np.uint64
    )
    return Batch(padded.tokens, padded.mask, owner, keys)


def encode_prompt(model: Model, prompt: str, decoding: Decoding) -> list[int]:
    """Token ids of a prompt by the tokenizer's own rules; DecodingError where none, or too many for the context."""
    ids = model.tokenizer(prompt).input_ids
    context = getattr(model.network.config, "max_position_embeddings", None)
    if not ids:
        raise DecodingError(f"prompt {prompt!r} has no tokens: want some text to continue")
    if context is not None and len(ids) + decoding.max_new_tokens > context:
        raise DecodingError(
            f"prompt of {len(ids)} tokens and {decoding.max_new_tokens} new ones exceed the context of {context}: "
            "lower max_new_tokens or shorten the prompt"
        )
    return ids


def end_tokens(model: Model) -> frozenset[int]:
    """Every token that ends a text for this model: its generation settings' and its tokenizer's."""
    config = model.network.generation_config
    named = None if config is None else config.eos_token_id
    own = model.tokenizer.eos_token_id
    ids = [*(named if isinstance(named, list) else [named]), own]
    return frozenset(token for token in ids if isinstance(token, int))
