"""sample: completions of problems by a model, or by anything that opens rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from lab.models.engine import Limits, found_stop
from lab.models.engine import Request as EngineRequest
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
    model: Model,
) -> list[Completion]:
    """Completes every row of `batch` up to the ends of `model`; which rows share the batch makes no difference.

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
            if token in model.ends:
                growing.stop = "eos"
            elif found_stop(model.tokenizer, growing.tokens, decoding.stop):
                growing.stop = "stop"
        running = np.array([texts[index].stop is None for index in present])
        if not running.any() or step + 1 == decoding.max_new_tokens:
            break
        if running.mean() <= 1 - LEAVE_SHARE:
            kept = torch.from_numpy(np.flatnonzero(running)).to(device)
            rows.keep(kept)
            present, tokens = present[running], tokens[kept]
        rows.append(tokens)
    return [completion(growing, decoding, model) for growing in texts]


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


def completion(growing: Growing, decoding: Decoding, model: Model) -> Completion:
    """The finished row, its text cut before a stop string."""
    return Completion(
        tokens=tuple(growing.tokens),
        logprobs=tuple(growing.logprobs),
        routes=tuple(growing.routes),
        categories=tuple(growing.categories),
        content_bits=tuple(growing.content_bits),
        text=before_stop(model.text(growing.tokens), decoding.stop),
        stop=growing.stop or "length",
    )


def before_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the earliest of the stop strings."""
    return text[: min((place for place in map(text.find, stops) if place >= 0), default=len(text))]


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
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[Trace]:
    """`n_samples` completions of each problem, ordered by problem, then by sample.

    The random number of a token is a function of (seed, problem id, sample index, step): another batch size, another
    order or a resumed run draws the same numbers. (Floating-point sums depend on the shape of a batch in their last
    digits, so in float32 a token changes where its number falls within about 1e-6 of a boundary; bfloat16 is coarser.)
    `batch_size` counts rows; when memory runs out it is halved and the work goes on. `open_rows` puts something else
    than the model itself in the loop, such as a hybrid; `model` then gives prompts, ends and the tokenizer. Else the
    model's engine writes, where it has one. `on_progress` is told the number of completions added.

    Raises DecodingError for an empty request, a prompt of no tokens or beyond the model's context, or logits that are
    not finite.
    """
    if not problems or n_samples < 1 or batch_size < 1:
        raise DecodingError(
            f"{len(problems)} problems x {n_samples} samples in batches of {batch_size}: want at least one of each"
        )
    requests = [Request(problem, index) for problem in problems for index in range(n_samples)]
    prompt_ids = {asked(problem): encode_prompt(model, problem, decoding) for problem in problems}
    if model.engine is not None and open_rows is None:
        return by_engine(model, requests, prompt_ids, decoding, seed, on_progress)
    # Prompts of like length share a batch, which keeps the padding short.
    order = sorted(range(len(requests)), key=lambda index: len(prompt_ids[asked(requests[index].problem)]))
    opener = open_rows or partial(CachedDecoder, model)
    traces: list[Trace | None] = [None] * len(requests)
    start = 0
    on_progress(0)
    while start < len(order):
        chosen = order[start : start + batch_size]
        try:
            written = complete(model, opener, [requests[index] for index in chosen], prompt_ids, decoding, seed)
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


def asked(problem: Problem) -> tuple[str, str]:
    """What two problems share if a model reads the same for both."""
    return problem.prompt, problem.opening


def by_engine(
    model: Model,
    requests: Sequence[Request],
    prompt_ids: Mapping[tuple[str, str], list[int]],
    decoding: Decoding,
    seed: int,
    on_progress: Callable[[int], None],
) -> list[Trace]:
    """The requests as the model's engine completes them; nothing in them is routed."""
    assert model.engine is not None, "asked for by the caller"
    limits = Limits(decoding.temperature, decoding.top_p, decoding.max_new_tokens, decoding.stop, model.ends)
    addressed = [
        EngineRequest(one.problem.id, one.sample_index, seed, tuple(prompt_ids[asked(one.problem)])) for one in requests
    ]
    traces: list[Trace] = []
    on_progress(0)
    for request, reply in zip(requests, model.engine.complete(addressed, limits), strict=True):
        n_tokens, d_vocab = len(reply.tokens), model.anatomy.d_vocab
        if outside := [token for token in reply.tokens if not 0 <= token < d_vocab]:
            raise DecodingError(
                f"the engine wrote token {outside[0]} for {request.problem.id!r}, and {model.name} has {d_vocab}: want "
                "an engine that runs the same model"
            )
        traces.append(
            Trace(
                problem_id=request.problem.id,
                sample_index=request.sample_index,
                routes=(0,) * n_tokens,
                categories=(-1,) * n_tokens,
                content_bits=(0.0,) * n_tokens,
                text=before_stop(model.text(reply.tokens), decoding.stop),
                **reply._asdict(),
            )
        )
        on_progress(1)
    return traces


def complete(
    model: Model,
    open_rows: OpenDecoder,
    requests: Sequence[Request],
    prompt_ids: Mapping[tuple[str, str], list[int]],
    decoding: Decoding,
    seed: int,
) -> Iterator[Trace]:
    """One batch of requests."""
    written = decode(open_rows, make_batch(model, prompt_ids, requests, seed), decoding, model=model)
    return (
        Trace(problem_id=request.problem.id, sample_index=request.sample_index, **row._asdict())
        for request, row in zip(requests, written, strict=True)
    )


def make_batch(
    model: Model, prompt_ids: Mapping[tuple[str, str], list[int]], requests: Sequence[Request], seed: int
) -> Batch:
    """Left-padded distinct prompts, and a row for each request."""
    prompts = {asked(request.problem): request.problem for request in requests}
    padded = left_padded(model, [prompt_ids[prompt] for prompt in prompts])
    index = {prompt: position for position, prompt in enumerate(prompts)}
    owner = torch.tensor([index[asked(request.problem)] for request in requests], device=model.device)
    keys = np.array(
        [child_seed(seed, request.problem.id, request.sample_index) for request in requests], dtype=np.uint64
    )
    return Batch(padded.tokens, padded.mask, owner, keys, tuple(prompts.values()))


def encode_prompt(model: Model, problem: Problem, decoding: Decoding) -> list[int]:
    """Token ids of a problem in the model's prompt format; DecodingError where none, or too many for the context."""
    ids = model.prompt_ids(problem.prompt, problem.opening)
    context = model.anatomy.context
    if not ids:
        raise DecodingError(f"prompt {problem.prompt!r} has no tokens: want some text to continue")
    if (highest := max(ids)) >= model.anatomy.d_vocab:
        raise DecodingError(
            f"the prompt in the format {model.prompter.format} has token {highest}, and {model.name} has rows for "
            f"{model.anatomy.d_vocab}: ask it raw, or by another template"
        )
    if context is not None and len(ids) + decoding.max_new_tokens > context:
        raise DecodingError(
            f"prompt of {len(ids)} tokens and {decoding.max_new_tokens} new ones exceed the context of {context}: "
            "lower max_new_tokens or shorten the prompt"
        )
    return ids
