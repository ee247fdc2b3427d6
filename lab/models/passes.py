"""Parts of a pass: what a network takes, what a block is given and gives, and blocks that hand on what they read."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lab.records.errors import ModelError


class Enough(Exception):  # noqa: N818 -- a signal that leaves the network early, never an error
    """Raised in a hook where nothing further is wanted of a pass."""


def arguments(network: PreTrainedModel, **given: object) -> dict[str, object]:
    """Those of `given` that its forward pass takes; positions, the cache and what is left out are not for every one."""
    names = inspect.signature(network.forward).parameters
    takes_all = any(each.kind is each.VAR_KEYWORD for each in names.values())
    return given if takes_all else {name: value for name, value in given.items() if name in names}


def stream_of(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Float[Tensor, "*tokens d_model"]:
    """What a block, or a part of one, is given to read."""
    stream = args[0] if args else kwargs.get("hidden_states")
    assert isinstance(stream, Tensor), "a block takes the residual stream first"
    return stream


def with_stream(
    args: tuple[object, ...], kwargs: Mapping[str, object], stream: Tensor
) -> tuple[tuple[object, ...], dict[str, object]]:
    """The same arguments with another stream."""
    return ((stream, *args[1:]), dict(kwargs)) if args else ((), {**kwargs, "hidden_states": stream})


def first_of(output: object) -> Tensor:
    """The stream that a block returns, or what attention adds to it: alone, or first of a tuple."""
    first = output[0] if isinstance(output, tuple) else output
    if not isinstance(first, Tensor):
        raise ModelError(
            f"one of its modules returns a {type(output).__name__}: want a tensor, or a tuple that begins so"
        )
    return first


def with_first(output: object, first: Tensor) -> object:
    """The same output with another first."""
    return (first, *output[1:]) if isinstance(output, tuple) else first


def in_single(given: Any) -> Any:  # noqa: ANN401 -- whatever a block is given
    """With tensors of numbers in single precision."""
    if isinstance(given, Tensor) and given.is_floating_point():
        return given.float()
    if isinstance(given, dict):
        return {name: in_single(each) for name, each in given.items()}
    return tuple(map(in_single, given)) if type(given) is tuple else given


@contextmanager
def handing_on(blocks: Iterable[tuple[nn.Module, int]]) -> Iterator[None]:
    """Within the block, each of `blocks` (with what it has in `returned`) gives the stream that it reads.

    Its hooks are called as ever.
    """
    with ExitStack() as stack:
        for block, length in blocks:
            attributes = vars(block)
            # Offloading and the like replace `forward` in the same way, so that it may have one of its own.
            stack.callback(attributes.update, {name: own for name, own in attributes.items() if name == "forward"})
            stack.callback(attributes.pop, "forward")
            attributes["forward"] = partial(_hand_on, length)
        yield


def _hand_on(length: int, *args: object, **kwargs: object) -> object:
    stream = stream_of(args, kwargs)
    return (stream, *[None] * (length - 1)) if length else stream
