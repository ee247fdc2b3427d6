"""A key-value cache with spare room, so that a new token is written in place and not by copying all earlier ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

ROOM = 32
"""Spare positions added each time a layer is full."""


class RoomyLayer(DynamicLayer):
    """One layer's keys and values as views into larger buffers, grown `ROOM` positions at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self,
        key_states: Float[Tensor, "row head pos d_head"],
        value_states: Float[Tensor, "row head pos d_value"],
        *_: Any,  # noqa: ANN401 -- the signature is transformers'
        **__: Any,  # noqa: ANN401
    ) -> tuple[Tensor, Tensor]:
        """Appends positions and returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        length, wanted = self.get_seq_length(), self.get_seq_length() + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < wanted:
            keys, values = self.filled_part()
            self.buffers = roomier(keys, key_states, wanted + ROOM), roomier(values, value_states, wanted + ROOM)
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[..., length:wanted, :] = states
        self.keys, self.values = (buffer[..., :wanted, :] for buffer in self.buffers)
        return self.keys, self.values

    def select(self, rows: Int[Tensor, " kept"], n_positions: int) -> "RoomyLayer":
        """A layer of its own with the first `n_positions` of the given rows, which may repeat."""
        layer = RoomyLayer()
        if self.is_initialized:
            keys, values = self.filled_part()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys[rows, :, :n_positions], values[rows, :, :n_positions]
            layer.buffers = layer.keys, layer.values
        return layer

    def rewound(self, n_positions: int) -> "RoomyLayer":
        """A layer that much shorter over the same memory: what it appends overwrites this one's last positions."""
        layer = RoomyLayer()
        keys, values = self.filled_part()
        layer.lazy_initialization(keys, values)
        length = keys.shape[-2] - n_positions
        layer.keys, layer.values, layer.buffers = keys[..., :length, :], values[..., :length, :], self.buffers
        return layer

    def filled_part(self) -> tuple[Tensor, Tensor]:
        """The keys and values written so far, as views."""
        assert self.keys is not None, "an initialised layer holds keys"
        assert self.values is not None, "an initialised layer holds values"
        return self.keys, self.values


def roomier(filled: Tensor, like: Tensor, capacity: int) -> Tensor:
    """A buffer of `capacity` positions, shaped as `like` in its other axes, that starts with `filled`."""
    buffer = like.new_empty((*like.shape[:-2], capacity, like.shape[-1]))
    if filled.numel():
        buffer[..., : filled.shape[-2], :] = filled
    return buffer


class RoomyCache(Cache):
    """The cache of a whole decoder; sliding-window layers keep everything and rely on the attention mask."""

    def __init__(self, prompt_width: int, layers: list[RoomyLayer] | None = None) -> None:
        self.prompt_width = prompt_width
        """How many of its first positions belong to prompts and their padding, not to completions."""
        if layers is None:
            super().__init__(layer_class_to_replicate=RoomyLayer)
        else:
            super().__init__(layers=list(layers))

    def select(self, rows: Int[Tensor, " kept"], n_positions: int) -> "RoomyCache":
        """A cache of its own with the first `n_positions` of the given rows, which may repeat."""
        return RoomyCache(self.prompt_width, [layer.select(rows, n_positions) for layer in self.roomy_layers])

    def rewound(self, n_positions: int) -> "RoomyCache":
        """A cache that much shorter over the same memory: what it reads overwrites this one's last positions."""
        return RoomyCache(self.prompt_width, [layer.rewound(n_positions) for layer in self.roomy_layers])

    def branch(self, rows: Int[Tensor, " chosen"], n_positions: int, first_layer: int) -> "RoomyCache":
        """A cache of the given rows, which may repeat, without the last `n_positions`.

        Layers below `first_layer` are those of all rows, and serve to say how long they are.
        """
        own = [layer.select(rows, layer.get_seq_length()) for layer in self.roomy_layers[first_layer:]]
        layers = [*self.roomy_layers[:first_layer], *own]
        return RoomyCache(self.prompt_width, [layer.rewound(n_positions) for layer in layers])

    def take_last(self, other: "RoomyCache", rows: Int[Tensor, " chosen"], first_layer: int) -> None:
        """Puts the last position of `other` in the place of that of `rows`, in the layers from `first_layer` on."""
        pairs = zip(self.roomy_layers[first_layer:], other.roomy_layers[first_layer:], strict=True)
        for ours, theirs in pairs:
            for filled, states in zip(ours.filled_part(), theirs.filled_part(), strict=True):
                filled[..., -1, :].index_copy_(0, rows, states[..., -1, :])

    @property
    def roomy_layers(self) -> list[RoomyLayer]:
        """All layers that hold something, from the first block's on."""
        return [layer for layer in self.layers if isinstance(layer, RoomyLayer)]


@contextmanager
def rewound(cache: RoomyCache) -> Iterator[RoomyCache]:
    """Within the block, `cache` one position shorter, not copied; afterwards `cache` is as it was, bit for bit."""
    layers = cache.roomy_layers
    saved = [[filled[..., -1:, :].clone() for filled in layer.filled_part()] for layer in layers]
    try:
        yield cache.rewound(1)
    finally:
        for layer, last in zip(layers, saved, strict=True):
            for filled, states in zip(layer.filled_part(), last, strict=True):
                filled[..., -1:, :] = states


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the host said that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )
