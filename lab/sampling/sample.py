"""sample: completions of problems by a model, or by anything that opens rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.records.seeds import child_seed
from lab.sampling.cache import is_out_of_memory
from lab.sampling.decode import decode
from lab.sampling.decoder import Batch, CachedDecoder, OpenDecoder, left_padded
from lab.sampling.decoding import Decoding
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem


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
