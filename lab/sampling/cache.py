"""The cache of rows that are decoded together: it can be cut to some rows, gone back in, and branched."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DummyLayer, DynamicCache, DynamicLayer, LinearAttentionLayer

from lab.records.errors import DecodingError

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

    def select(self, rows: Int[Tensor, " kept"], n_positions: int | None = None) -> "RoomyLayer":
        """A layer of its own with the first `n_positions` (or all) of the given rows, which may repeat."""
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


class StateLayer(LinearAttentionLayer):
    """One layer of linear attention: states that have no positions, and what they were before the last pass."""

    def __init__(self, number_of_states: int = 1) -> None:
        super().__init__(number_of_states=number_of_states)
        self.before: StateLayer | None = None

    def states(self, rows: Int[Tensor, " kept"] | None = None) -> "StateLayer":
        """A layer of its own with the states of the given rows, or of all, and no past."""
        layer = StateLayer(self.number_of_states)
        for name in ("conv_states", "recurrent_states"):
            held = getattr(self, name).items()
            copies = {at: None if one is None else one.clone() if rows is None else one[rows] for at, one in held}
            setattr(layer, name, copies)
        for name in ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state"):
            setattr(layer, name, dict(getattr(self, name)))
        layer.conv_kernel_size, layer.device, layer.dtype = dict(self.conv_kernel_size), self.device, self.dtype
        return layer

    def take(self, other: "StateLayer") -> None:
        """Holds from now on the states of `other`, which is given up."""
        kept = {"before", "keys", "values", "buffers", "is_initialized"}
        vars(self).update({name: value for name, value in vars(other).items() if name not in kept})

    def mark(self) -> None:
        """Remembers the states as they are, to which `rewound` goes back after the next pass."""
        self.before = self.states()

    def select(self, rows: Int[Tensor, " kept"], n_positions: int | None = None) -> "StateLayer":
        """A layer of its own with the given rows, which may repeat."""
        del n_positions
        layer = self.states(rows)
        layer.before = self.before and self.before.states(rows)
        return layer

    def rewound(self, n_positions: int) -> "StateLayer":
        """A layer of its own as it was before the last pass; DecodingError where that is not so many positions ago."""
        if n_positions != 1 or self.before is None:
            raise DecodingError(
                f"a model with linear attention is to go back {n_positions} tokens, and keeps what it was one token "
                "ago: want an edit or a window of the last token alone"
            )
        return self.before.states()

    def take_rows(self, other: "StateLayer", rows: Int[Tensor, " chosen"]) -> None:
        """Puts the states of `other` in the place of those of `rows`."""
        for ours, theirs in (
            (self.conv_states, other.conv_states),
            (self.recurrent_states, other.recurrent_states),
        ):
            for at, states in theirs.items():
                held = ours[at]
                if states is not None and held is not None:
                    ours[at] = held.index_copy(0, rows, states)


class BothLayer(StateLayer, RoomyLayer):
    """One layer with attention and linear attention side by side."""

    def __init__(self, number_of_states: int = 1) -> None:
        RoomyLayer.__init__(self)
        StateLayer.__init__(self, number_of_states)

    def lazy_initialization(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 -- as transformers has it
        """Of keys and values where it is given those, else of states."""
        (RoomyLayer if args else StateLayer).lazy_initialization(self, *args, **kwargs)

    def select(self, rows: Int[Tensor, " kept"], n_positions: int | None = None) -> "BothLayer":
        """A layer of its own with the first positions of the given rows."""
        return self._of(StateLayer.select(self, rows), RoomyLayer.select(self, rows, n_positions))

    def rewound(self, n_positions: int) -> "BothLayer":
        """A layer with the states of before, and that much shorter over the same memory."""
        return self._of(StateLayer.rewound(self, n_positions), RoomyLayer.rewound(self, n_positions))

    def _of(self, states: StateLayer, keys: RoomyLayer) -> "BothLayer":
        layer = BothLayer(self.number_of_states)
        layer.take(states)
        layer.before = states.before
        vars(layer).update({name: getattr(keys, name) for name in ("keys", "values", "buffers", "is_initialized")})
        return layer


class NoLayer(DummyLayer):
    """A block that keeps nothing, or uses what another keeps."""

    def select(self, *_: object) -> "NoLayer":
        """Itself."""
        return self

    def rewound(self, _: int) -> "NoLayer":
        """Itself."""
        return self


Layer = RoomyLayer | StateLayer | NoLayer


def cache_layers(network: PreTrainedModel) -> list[Layer] | None:
    """What each block of `network` keeps, by transformers' word; None where all keep keys and values alone."""
    told = DynamicCache(config=network.config).layers
    if all(isinstance(layer, DynamicLayer) and not isinstance(layer, LinearAttentionLayer) for layer in told):
        return None
    layers: list[Layer] = []
    for layer in told:
        if isinstance(layer, LinearAttentionLayer):
            made = BothLayer if isinstance(layer, DynamicLayer) else StateLayer
            layers.append(made(layer.number_of_states))
        else:
            layers.append(NoLayer() if isinstance(layer, DummyLayer) else RoomyLayer())
    return layers


class RoomyCache(Cache):
    """The cache of a whole decoder; sliding-window layers keep everything and rely on the attention mask."""

    def __init__(self, prompt_width: int, layers: Sequence[Layer] | None = None) -> None:
        self.prompt_width = prompt_width
        """How many of its first positions belong to prompts and their padding, not to completions."""
        if layers is None:
            super().__init__(layer_class_to_replicate=RoomyLayer)
        else:
            super().__init__(layers=list(layers))

    def select(self, rows: Int[Tensor, " kept"], n_positions: int) -> "RoomyCache":
        """A cache of its own with the first `n_positions` of the given rows, which may repeat."""
        return RoomyCache(self.prompt_width, [layer.select(rows, n_positions) for layer in self.held])

    def rewound(self, n_positions: int) -> "RoomyCache":
        """A cache that much shorter over the same memory: what it reads overwrites this one's last positions."""
        return RoomyCache(self.prompt_width, [layer.rewound(n_positions) for layer in self.held])

    def branch(self, rows: Int[Tensor, " chosen"], n_positions: int, first_layer: int) -> "RoomyCache":
        """A cache of the given rows, which may repeat, without the last `n_positions`.

        Layers below `first_layer` are those of all rows, and serve to say how long they are.
        """
        layers = [*self.held[:first_layer], *(layer.select(rows) for layer in self.held[first_layer:])]
        return RoomyCache(self.prompt_width, [layer.rewound(n_positions) for layer in layers])

    def take_last(self, other: "RoomyCache", rows: Int[Tensor, " chosen"], first_layer: int) -> None:
        """Puts the last position of `other` in the place of that of `rows`, in the layers from `first_layer` on."""
        for ours, theirs in zip(self.held[first_layer:], other.held[first_layer:], strict=True):
            if isinstance(ours, StateLayer) and isinstance(theirs, StateLayer):
                ours.take_rows(theirs, rows)
            if isinstance(ours, RoomyLayer) and isinstance(theirs, RoomyLayer):
                for filled, states in zip(ours.filled_part(), theirs.filled_part(), strict=True):
                    filled[..., -1, :].index_copy_(0, rows, states[..., -1, :])

    def take_states(self, other: "RoomyCache", first_layer: int) -> None:
        """Takes over what has no positions from `other`, which was made by `rewound` and given the last one again."""
        for ours, theirs in zip(self.held[first_layer:], other.held[first_layer:], strict=True):
            if isinstance(ours, StateLayer) and isinstance(theirs, StateLayer):
                ours.take(theirs)

    def mark(self) -> None:
        """Says that the next pass reads one position, before which `rewound` can go back."""
        for layer in self.held:
            if isinstance(layer, StateLayer):
                layer.mark()

    @property
    def has_states(self) -> bool:
        """Whether a layer keeps what has no positions."""
        return any(isinstance(layer, StateLayer) for layer in self.layers)

    @property
    def held(self) -> list[Layer]:
        """What each block keeps, from the first one's on."""
        return [layer for layer in self.layers if isinstance(layer, RoomyLayer | StateLayer | NoLayer)]

    @property
    def roomy_layers(self) -> list[RoomyLayer]:
        """The layers that hold keys and values."""
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
