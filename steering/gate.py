"""Gate: at which tokens of a text an edit acts."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias, assert_never

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from lab.models.load import Model
from lab.records.errors import SiteError
from lab.sampling.cache import RoomyCache
from lab.sampling.decoder import token_positions


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One pass. Whatever the padding, the batch and the cache, a token has the same place; padding's means nothing."""

    positions: Int[Tensor, "batch pos"] | None
    """Where each token that is read stands in its text, from 0; None where the caller did not say."""
    n_prompt: Int[Tensor, " batch"] | None
    """Tokens of each row's prompt; None where nobody said."""


def window_of(
    network: PreTrainedModel,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    n_prompt: Int[Tensor, " batch"] | None,
) -> Window:
    """What a call of `network` with these arguments reads.

    Positions are the call's `position_ids`, or else follow from its `attention_mask`. The rows of a decoding loop carry
    the width of their prompts in their cache; `n_prompt` serves all other calls. Raises SiteError where `n_prompt`
    names another number of rows than the call reads.
    """
    names = inspect.signature(network.forward).parameters if args else ()
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    read = next(tensor for name in ("input_ids", "inputs_embeds") if isinstance(tensor := given.get(name), Tensor))
    n_rows, width = read.shape[:2]
    mask = given.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        mask = None
    positions = given.get("position_ids")
    if isinstance(positions, Tensor):
        # One row of positions may stand for all.
        positions = positions.expand(n_rows, width)
    else:
        positions = None if mask is None else token_positions(mask.bool())[:, -width:]
    cache = given.get("past_key_values")
    if isinstance(cache, RoomyCache) and mask is not None:
        # Where prompts are read in parts, what is left to read is real in every row, since padding stands on the left.
        unread = max(0, cache.prompt_width - mask.shape[1])
        return Window(positions, mask[:, : cache.prompt_width].sum(dim=1) + unread)
    if n_prompt is not None and len(n_prompt) != n_rows:
        raise SiteError(
            f"n_prompt gives the prompts of {len(n_prompt)} rows and a pass reads {n_rows}: want one length a row"
        )
    return Window(positions, None if n_prompt is None else n_prompt.to(read.device))


@dataclass(frozen=True, slots=True)
class Everywhere:
    """At every token that is read."""


@dataclass(frozen=True, slots=True)
class InPrompt:
    """At the tokens of the prompt."""


@dataclass(frozen=True, slots=True)
class InCompletion:
    """At the tokens of the completion; the first of them is written before any is read, so it does not change."""


@dataclass(frozen=True, slots=True)
class CompletionStart:
    """At the first tokens of the completion, as they are read."""

    n_tokens: int

    def __post_init__(self) -> None:
        if self.n_tokens < 0:
            raise SiteError(f"a gate at the first {self.n_tokens} tokens of a completion: want a number from 0 on")


@dataclass(frozen=True, slots=True)
class AtPositions:
    """At given tokens: from 0 on counted from the start of the text, below 0 from the prompt's end, -1 its last token.

    In a row whose prompt is too short for a position below 0 the gate is shut there.
    """

    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WhileWriting:
    """At the token that is read last when some tokens of the completion are written: a schedule fixed in advance."""

    steps: tuple[int, ...]
    """Tokens of the completion, counted from 0; number 0 is written from the last token of the prompt."""

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple) or min(self.steps, default=0) < 0:
            raise SiteError(f"a schedule of steps {self.steps!r}: want tokens of the completion from 0 on, as (0,)")


PartialGate: TypeAlias = InPrompt | InCompletion | CompletionStart | AtPositions | WhileWriting
"""Gates that have to know which tokens a pass reads."""
Gate: TypeAlias = Everywhere | PartialGate

EVERYWHERE = Everywhere()


Opened: TypeAlias = Callable[[PartialGate], Bool[Tensor, "batch pos"]]
"""Asked while a pass runs: the tokens of the pass at which a gate is open."""


@contextmanager
def opened_gates(model: Model, gates: Collection[Gate], n_prompt: Int[Tensor, " batch"] | None) -> Iterator[Opened]:
    """Within the block every call of the network is asked which tokens it reads, if one of `gates` has to know it.

    `n_prompt` is as in `window_of`. The network raises SiteError where its caller does not say what a gate asks for.
    """
    asking = [gate for gate in gates if not isinstance(gate, Everywhere)]
    opened: dict[PartialGate, Bool[Tensor, "batch pos"]] = {}

    def look(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        window = window_of(model.network, args, kwargs, n_prompt)
        opened.update({gate: is_open(gate, window) for gate in asking})

    def ask(gate: PartialGate) -> Bool[Tensor, "batch pos"]:
        if gate not in opened:
            raise SiteError(f"{gate} met a block that ran outside a call of {model.name}'s network: call the network")
        return opened[gate]

    with ExitStack() as stack:
        if asking:
            stack.callback(model.network.register_forward_pre_hook(look, with_kwargs=True).remove)
            # Also after a pass that was left early: what one pass reads says nothing of the next.
            forget = model.network.register_forward_hook(lambda *_: opened.clear(), always_call=True)
            stack.callback(forget.remove)
        yield ask


def is_open(gate: PartialGate, window: Window) -> Bool[Tensor, "batch pos"]:
    """The tokens of `window` where the gate is open; SiteError where the pass does not tell what it asks for."""
    match gate:
        case InPrompt():
            return _past_prompt(gate, window) < 0
        case InCompletion():
            return _past_prompt(gate, window) >= 0
        case CompletionStart(n_tokens=n_tokens):
            past = _past_prompt(gate, window)
            return (past >= 0) & (past < n_tokens)
        case WhileWriting(steps=steps):
            return _among(_past_prompt(gate, window) + 1, steps)
        case AtPositions(positions=positions):
            from_end = tuple(position for position in positions if position < 0)
            opened = _among(_positions(gate, window), tuple(position for position in positions if position >= 0))
            return opened | _among(_past_prompt(gate, window), from_end) if from_end else opened
        case never:
            assert_never(never)


def _among(numbers: Int[Tensor, "batch pos"], wanted: tuple[int, ...]) -> Bool[Tensor, "batch pos"]:
    return torch.isin(numbers, torch.tensor(wanted, dtype=numbers.dtype, device=numbers.device))


def _positions(gate: PartialGate, window: Window) -> Int[Tensor, "batch pos"]:
    if window.positions is None:
        raise SiteError(
            f"{gate} needs to know where tokens stand in their texts: pass position_ids or a two-dimensional "
            "attention_mask to the network"
        )
    return window.positions


def _past_prompt(gate: PartialGate, window: Window) -> Int[Tensor, "batch pos"]:
    """0 at the first token of the completion, below 0 in the prompt."""
    if window.n_prompt is None:
        raise SiteError(
            f"{gate} needs to know where prompts end: give the block n_prompt, the tokens of each row's prompt, or "
            "decode by lab.sampling"
        )
    return _positions(gate, window) - window.n_prompt[:, None]
