"""Examples: texts that a vector is fitted on, and the tokens in them that it should make likely."""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar, assert_never

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.records.errors import VectorError


class Disagreements(NamedTuple):
    """Moments at which one token should have been written: contexts, and that token.

    The vector acts at the last position of a context alone, as a hybrid uses it.
    """

    tokens: Int[Tensor, "disagreement pos"]
    """Contexts, padded on the left."""
    mask: Bool[Tensor, "disagreement pos"]
    targets: Int[Tensor, " disagreement"]


class Completions(NamedTuple):
    """Texts whose last tokens should have been written; the vector acts at every position, as under `apply`."""

    tokens: Int[Tensor, "text pos"]
    """Prompts and completions, padded on the left."""
    mask: Bool[Tensor, "text pos"]
    n_completion: Int[Tensor, " text"]
    """How many tokens at the end of each text are its completion: at least one, and fewer than the text has."""


Examples = TypeVar("Examples", Disagreements, Completions)


class Example(NamedTuple):
    """One text as a fit reads it."""

    text: list[int]
    """Token ids, without padding."""
    first: int
    """The first position that the vector acts at; it acts at all later ones too."""
    places: list[int]
    """Positions whose next token is at stake."""
    targets: list[int]
    """That token, for each."""


def chosen(examples: Examples, rows: Int[Tensor, " chosen"]) -> Examples:
    """The examples at `rows`, in that order."""
    rows = rows.to(examples.tokens.device)
    return type(examples)(*(part[rows] for part in examples))


def listed(examples: Disagreements | Completions) -> list[Example]:
    """The examples one by one, in order."""
    texts = [row[kept].tolist() for row, kept in zip(examples.tokens, examples.mask, strict=True)]
    match examples:
        case Disagreements(targets=targets):
            return [
                Example(text, len(text) - 1, [len(text) - 1], [target])
                for text, target in zip(texts, targets.tolist(), strict=True)
            ]
        case Completions(n_completion=lengths):
            return [
                Example(text, 0, list(range(len(text) - n - 1, len(text) - 1)), text[-n:])
                for text, n in zip(texts, lengths.tolist(), strict=True)
            ]
        case never:
            assert_never(never)


def split_by_problem(
    examples: Examples, problems: Sequence[str], held_out_share: float, generator: np.random.Generator
) -> tuple[Examples, Examples]:
    """(to fit on, held out): no problem is on both sides, and `held_out_share` of the problems are held out.

    `problems` names the problem of each example. Raises VectorError where either side would be empty.
    """
    distinct = sorted(set(problems))
    n_held_out = round(held_out_share * len(distinct))
    if not 0 < n_held_out < len(distinct):
        raise VectorError(
            f"{held_out_share:g} of {len(distinct)} problems held out leaves a side without any: take more problems or "
            "another share"
        )
    held_out = set(generator.permutation(distinct)[:n_held_out].tolist())
    is_out = torch.tensor([problem in held_out for problem in problems])
    return chosen(examples, (~is_out).nonzero()[:, 0]), chosen(examples, is_out.nonzero()[:, 0])
