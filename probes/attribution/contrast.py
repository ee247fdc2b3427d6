"""contrast: the scalar of the logits whose causes are sought, and the table of the texts it is read at."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lab.errors import EstimateError, SiteError
from lab.models.load import Model
from lab.tables import Column, Schema
from lab.tasks.problem import Problem
from probes.positions import TokenSet, read_positions

CONTRASTS = Schema(
    "contrasts",
    (
        Column("problem_id", pl.String, "the problem that the text belongs to"),
        Column("tokens", pl.List(pl.Int32), "the text up to the decision, prompt included"),
        Column("toward", pl.List(pl.Int32), "next tokens on the one side"),
        Column("against", pl.List(pl.Int32), "next tokens on the other side"),
    ),
)


class Sides(NamedTuple):
    """The tokens of some contrasts."""

    toward: Int[Tensor, "text n_toward"]
    """Token ids, filled up with -1."""
    against: Int[Tensor, "text n_against"]
    """Token ids, filled up with -1."""


def contrast(logits: Float[Tensor, "text d_vocab"], sides: Sides) -> Float[Tensor, " text"]:
    """Log-odds, in nats, of the tokens on the one side against those on the other; gradients pass.

    logsumexp over `toward` minus logsumexp over `against`, of the next token's logits: with one token on each side the
    difference of two logits.
    """
    logits = logits.float()

    def total(ids: Int[Tensor, "text side"]) -> Float[Tensor, " text"]:
        return logits.gather(1, ids.clamp(min=0)).masked_fill(ids < 0, -torch.inf).logsumexp(dim=1)

    return total(sides.toward) - total(sides.against)


def opening_contrasts(
    model: Model, problems: Sequence[Problem], toward: Sequence[str], against: Sequence[str]
) -> pl.DataFrame:
    """`CONTRASTS` rows of how answers to `problems` begin: the texts are the prompts.

    In the chain world `["T"]` against `["A"]` is a worked answer against a direct one. Raises SiteError for a string
    that is not exactly one token of the model, and EstimateError as `require_contrasts` does.
    """
    sides: dict[str, object] = {
        "toward": _tokens(toward, model.tokenizer),
        "against": _tokens(against, model.tokenizer),
    }
    rows = [
        {"problem_id": problem.id, "tokens": model.tokenizer(problem.prompt).input_ids, **sides} for problem in problems
    ]
    table = CONTRASTS.frame(rows)
    require_contrasts(model, table)
    return table


def require_contrasts(model: Model, contrasts: pl.DataFrame) -> None:
    """EstimateError unless `contrasts` is a `CONTRASTS` table of at least one row that `model` can be asked."""
    CONTRASTS.checked(contrasts)
    if contrasts.is_empty():
        raise EstimateError("no contrasts came: want at least one text with tokens on both sides")
    context = getattr(model.network.config, "max_position_embeddings", None)
    for row, (problem_id, tokens, toward, against) in enumerate(contrasts.iter_rows()):
        if fault := _fault(model.anatomy.d_vocab, context, tokens, toward, against):
            raise EstimateError(f"contrast {row}, of {problem_id!r}, {fault} for {model.name}")


def contrasts_digest(contrasts: pl.DataFrame) -> str:
    """Sixteen hex digits of SHA-256 over all that a `CONTRASTS` table says."""
    total = hashlib.sha256()
    for row in contrasts.iter_rows():
        total.update(f"{row}\n".encode())
    return total.hexdigest()[:16]


def read_sides(contrasts: pl.DataFrame, device: torch.device) -> Sides:
    """The tokens of a `CONTRASTS` table, on `device`."""
    return Sides(*(_filled_up(contrasts[side].to_list(), device) for side in ("toward", "against")))


def _filled_up(ids: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "text side"]:
    most = max(map(len, ids))
    return torch.tensor([[*row, *[-1] * (most - len(row))] for row in ids], device=device)


def _fault(
    d_vocab: int, context: int | None, tokens: Sequence[int], toward: Sequence[int], against: Sequence[int]
) -> str | None:
    if not tokens:
        return "has no text: want at least one token"
    if context is not None and len(tokens) > context:
        return f"has {len(tokens)} tokens: want at most {context}"
    if not toward or not against:
        return f"has {len(toward)} tokens toward and {len(against)} against: want at least one of each"
    if both := sorted({*toward} & {*against}):
        return f"has token {both[0]} on both sides: want it on one"
    if len({*toward}) < len(toward) or len({*against}) < len(against):
        return "has a token twice on one side: want each once"
    if outside := [token for token in (*tokens, *toward, *against) if not 0 <= token < d_vocab]:
        return f"has token {outside[0]}: want ids from 0 to {d_vocab - 1}"
    return None


def _tokens(strings: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    rule = read_positions(("tokens", *strings), tokenizer) if strings else None
    if not isinstance(rule, TokenSet):
        raise SiteError("a contrast with no string on one side: want at least one on each, such as 'T' against 'A'")
    return sorted(rule.tokens)
