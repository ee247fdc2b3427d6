"""Window: the tokens that a forward pass reads, and where they stand in their texts."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from lab.errors import SiteError
from lab.models.padding import token_positions
from lab.sampling.cache import RoomyCache


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
        return Window(positions, mask[:, : cache.prompt_width].sum(dim=1))
    if n_prompt is not None and len(n_prompt) != n_rows:
        raise SiteError(
            f"n_prompt gives the prompts of {len(n_prompt)} rows and a pass reads {n_rows}: want one length a row"
        )
    return Window(positions, None if n_prompt is None else n_prompt.to(read.device))
