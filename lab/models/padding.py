"""Padding: texts of unequal length as one batch, and where their tokens stand."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.models.load import Model


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
