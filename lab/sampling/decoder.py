"""Decoder: texts that grow one token a step, padded into one batch, and the plain case where one model writes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8, UInt64
from torch import Tensor

from lab.models.anatomy import require_one_rotation
from lab.models.load import Model
from lab.models.passes import arguments
from lab.sampling.cache import RoomyCache, cache_layers, rewound
from lab.tasks.problem import Problem


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host said that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch starts from: distinct prompts, and rows that each continue one of them."""

    prompts: Int[Tensor, "prompt pos"]
    """Token ids, padded on the left."""
    mask: Bool[Tensor, "prompt pos"]
    """True at real tokens."""
    owner: Int[Tensor, " row"]
    """The prompt each row continues."""
    keys: UInt64[np.ndarray, " row"]
    """The key of each row's random numbers."""
    asked: tuple[Problem, ...] = ()
    """The problem of each prompt, for a second model that reads it in a format of its own; none where nothing does."""


class Crossing(NamedTuple):
    """What a second model gave to a proposal."""

    category: Int[Tensor, " row"]
    """That it found in a row, -1 where it was not asked."""
    choice_bits: Float[Tensor, " row"]
    """Log2 of the number of different tokens among which it chose, else 0."""
    own_logits: Float[Tensor, "row d_vocab"]
    """Of the first model, which price a token that the second one writes."""


class Proposal(NamedTuple):
    """What the rows say about their next token."""

    logits: Float[Tensor, "row d_vocab"]
    route: UInt8[Tensor, " row"]
    """Index into `lab.sampling.trace.ROUTES`."""
    crossing: Crossing | None = None
    """None where a model writes alone."""


@runtime_checkable
class Decoder(Protocol):
    """A batch that the decoding loop drives; a plain model and a hybrid of two are both rows."""

    def propose(self) -> Proposal:
        """The distribution of the next token of every row; called once between two appends."""
        ...

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """Adds one token to every row."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops all other rows."""
        ...


OpenDecoder = Callable[[Batch], Decoder]
"""Starts a batch; the seam where samplers and hybrids differ."""


class Padded(NamedTuple):
    """Token ids padded on the left."""

    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    """True at real tokens."""


def left_padded(model: Model, texts: Sequence[Sequence[int]]) -> Padded:
    """`texts` as token ids, on the model's device; no texts give a batch of none."""
    width = max(map(len, texts), default=0)
    pad = model.tokenizer.pad_token_id
    tokens = [[pad] * (width - len(ids)) + list(ids) for ids in texts]
    mask = [[False] * (width - len(ids)) + [True] * len(ids) for ids in texts]
    shape = (len(texts), width)
    return Padded(
        torch.tensor(tokens, dtype=torch.long, device=model.device).reshape(shape),
        torch.tensor(mask, dtype=torch.bool, device=model.device).reshape(shape),
    )


def token_positions(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Where each token stands in its own text, from 0; padding counts as 0.

    Always passed to a network: some families (GPT-2) do not derive positions from the mask, and are silently wrong
    under left padding without them.
    """
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


class CachedDecoder:
    """Rows of one model with a key-value cache; each distinct prompt is read once, however many rows continue it."""

    def __init__(self, model: Model, batch: Batch) -> None:
        self.network, self.anatomy = model.network, model.anatomy
        prompt_width = batch.prompts.shape[1]
        self.cache = RoomyCache(prompt_width, cache_layers(model.network))
        self.mask = batch.mask
        # States without positions can only go back to where a pass began.
        first = prompt_width - 1 if self.cache.has_states else 0
        if first:
            self._forward(batch.prompts[:, :first], batch.mask[:, :first], self.cache)
        self.cache.mark()
        prompt_logits = self._forward(batch.prompts[:, first:], batch.mask, self.cache)
        self.cache = self.cache.select(batch.owner, prompt_width)
        self.mask = batch.mask[batch.owner]
        self.logits = prompt_logits[batch.owner]
        self.tokens = batch.prompts[batch.owner]

    def propose(self) -> Proposal:
        """The model's own distribution."""
        return Proposal(self.logits, torch.zeros(len(self.tokens), dtype=torch.uint8, device=self.tokens.device))

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One forward pass over one position."""
        self.tokens = torch.cat([self.tokens, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        self.cache.mark()
        self.logits = self._forward(tokens[:, None], self.mask, self.cache)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows from the cache as well."""
        self.cache = self.cache.select(rows, self.mask.shape[1])
        self.mask, self.logits, self.tokens = self.mask[rows], self.logits[rows], self.tokens[rows]

    def again(self, rows: Int[Tensor, " chosen"], *, first_layer: int = 0) -> Float[Tensor, "chosen d_vocab"]:
        """Next-token logits of some rows, each once and in order, computed afresh from their last token on.

        Under `steering.apply` this is the distribution with that one position edited. The rows' own cache is left as it
        is, so nothing of the edit reaches later positions. `first_layer` is the first layer that runs, where the caller
        has the network begin further up.
        """
        if len(rows) < len(self.tokens):
            return self.branches(rows, 1, first_layer=first_layer)
        with rewound(self.cache) as cache:
            return self._forward(self.tokens[:, -1:], self.mask, cache)

    def revise(self, rows: Int[Tensor, " chosen"], *, first_layer: int = 0) -> Float[Tensor, "chosen d_vocab"]:
        """As `again`, but the cache holds from then on what this pass made of the position, for all later ones."""
        if len(rows) == len(self.tokens):
            cache = self.cache.rewound(1)
            logits = self._forward(self.tokens[:, -1:], self.mask, cache)
            self.cache.take_states(cache, first_layer)
            return logits
        cache = self.cache.branch(rows, 1, first_layer)
        logits = self._forward(self.tokens[rows, -1:], self.mask[rows], cache)
        self.cache.take_last(cache, rows, first_layer)
        return logits

    def branches(
        self, rows: Int[Tensor, " chosen"], n_last: int, *, first_layer: int = 0
    ) -> Float[Tensor, "chosen d_vocab"]:
        """As `again`, but afresh from the last `n_last` tokens on, and rows may repeat: each has a cache of its own."""
        cache = self.cache.branch(rows, n_last, first_layer)
        return self._forward(self.tokens[rows, -n_last:], self.mask[rows], cache)

    def _forward(
        self, tokens: Int[Tensor, "some pos"], mask: Bool[Tensor, "some total"], cache: RoomyCache
    ) -> Float[Tensor, "some d_vocab"]:
        require_one_rotation(self.anatomy, mask.shape[1])
        positions = token_positions(mask)[:, -tokens.shape[1] :]
        given = {"attention_mask": mask.long(), "position_ids": positions, "past_key_values": cache}
        output = self.network(**arguments(self.network, input_ids=tokens, use_cache=True, logits_to_keep=1, **given))
        return output.logits[:, -1]
