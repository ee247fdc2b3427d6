"""Hybrid: a base and a tuned model in step, with one decision a token about who writes it."""

from dataclasses import dataclass
from math import log2

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import VectorError
from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.sampling.rows import Batch, CachedRows, OpenRows, Proposal, Rows
from lab.seeds import uniforms
from steering.edit import Edit, apply_each
from steering.hybrid.router import Never, Router, asks_tuned, route


@dataclass(frozen=True, slots=True)
class Steer:
    """At a routed token the base model writes under an edit, such as a vector added, of the position it reads last.

    Its cache keeps the position as it was without the edit, so no later token sees the edit unless it is routed too.
    """

    edits: tuple[Edit, ...]
    """Each row uses one of these, which its key chooses: a control is many draws, not one lucky or unlucky vector."""

    def __post_init__(self) -> None:
        if not self.edits:
            raise VectorError("a hybrid that steers was given no vector: want at least one")


@dataclass(frozen=True, slots=True)
class Takeover:
    """At a routed token the tuned model's own distribution is used."""


@dataclass(frozen=True, slots=True)
class SecondChoice:
    """At a routed token the base model's own second choice is written: a control of what the gate alone does."""


@dataclass(frozen=True, slots=True)
class LikelyToken:
    """At a routed token a uniform draw from the base model's first choices is written: a control."""

    top: int = 5
    """How many first choices."""


Act = Steer | Takeover | SecondChoice | LikelyToken
"""What happens at a routed token."""


@dataclass(frozen=True, slots=True)
class Hybrid:
    """When (the router) and what (the act)."""

    router: Router
    act: Act

    @property
    def needs_tuned(self) -> bool:
        """Whether the tuned model runs while the hybrid writes."""
        return asks_tuned(self.router) or (isinstance(self.act, Takeover) and not isinstance(self.router, Never))


# Keeps the draws of `LikelyToken` apart from those that route and choose tokens.
CHOICE_KEY = np.uint64(0x3C3C3C3C3C3C3C3C)


def open_hybrid(pair: ModelPair, hybrid: Hybrid) -> OpenRows:
    """Rows for `lab.sampling.sample`: `sample(pair.base, ..., open_rows=open_hybrid(pair, hybrid))`."""

    def opened(batch: Batch) -> Rows:
        return HybridRows(pair, hybrid, batch)

    return opened


class HybridRows:
    """Rows that two cached models carry forward together; the tuned one only where it is needed."""

    def __init__(self, pair: ModelPair, hybrid: Hybrid, batch: Batch) -> None:
        self.base_model: Model = pair.base
        self.hybrid = hybrid
        self.keys = batch.keys
        self.step = 0
        self.base = CachedRows(pair.base, batch)
        self.tuned = CachedRows(pair.tuned, batch) if hybrid.needs_tuned else None

    def propose(self) -> Proposal:
        """The base model's distribution, replaced at the routed rows."""
        base = self.base.propose()
        tuned = None if self.tuned is None else self.tuned.propose()
        routed = route(
            self.hybrid.router,
            step=self.step,
            keys=self.keys,
            base_logits=base.logits,
            tuned_logits=None if tuned is None else tuned.logits,
        )
        rows = routed.nonzero()[:, 0]
        if not len(rows):
            return base
        match self.hybrid.act:
            case Steer(edits=edits):
                logits, written_by = self._steered(edits, rows, base.logits), 1
            case Takeover():
                assert tuned is not None, "a takeover opens the tuned model"
                logits, written_by = base.logits.index_copy(0, rows, tuned.logits[rows]), 2
            case SecondChoice():
                second = base.logits[rows].topk(2, dim=-1).indices[:, 1]
                logits, written_by = insisting(base.logits, rows, second), 1
            case LikelyToken(top=top):
                first = base.logits[rows].topk(min(top, base.logits.shape[1]), dim=-1).indices
                numbers = uniforms(self.keys[rows.cpu().numpy()] ^ CHOICE_KEY, self.step)
                places = torch.from_numpy((numbers * first.shape[1]).astype(np.int64)).to(first.device)
                logits, written_by = insisting(base.logits, rows, first.gather(1, places[:, None])[:, 0]), 1
        return Proposal(logits, routed.to(torch.uint8) * written_by)

    def _steered(
        self, edits: tuple[Edit, ...], rows: Int[Tensor, " routed"], logits: Float[Tensor, "row d_vocab"]
    ) -> Float[Tensor, "row d_vocab"]:
        chosen = torch.from_numpy((self.keys % np.uint64(len(edits))).astype(np.int64)).to(rows.device)[rows]
        with apply_each(self.base_model, edits, chosen):
            return logits.index_copy(0, rows, self.base.again(rows))

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """Both models read the token, whoever wrote it."""
        self.step += 1
        self.base.append(tokens)
        if self.tuned is not None:
            self.tuned.append(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows from both models."""
        self.keys = self.keys[rows.cpu().numpy()]
        self.base.keep(rows)
        if self.tuned is not None:
            self.tuned.keep(rows)


def insisting(
    logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, " routed"], tokens: Int[Tensor, " routed"]
) -> Float[Tensor, "row d_vocab"]:
    """`logits` with all probability on `tokens` at `rows`."""
    certain = torch.full_like(logits[rows], -torch.inf).scatter(1, tokens[:, None], 0.0)
    return logits.index_copy(0, rows, certain)


def bits_per_token(hybrid: Hybrid, routed_share: float, d_vocab: int) -> float:
    """Upper bound, in bits a token, on what crosses from the tuned model while the hybrid writes.

    The gate's binary entropy at its measured rate where the tuned model is asked, and log2(d_vocab) at each token that
    it takes over (design of the ladder; no coding of the taken tokens by the base is assumed).
    """
    gate = binary_entropy_bits(routed_share) if asks_tuned(hybrid.router) else 0.0
    taken = routed_share * log2(d_vocab) if isinstance(hybrid.act, Takeover) else 0.0
    return gate + taken


def binary_entropy_bits(share: float) -> float:
    """-p log2 p - (1 - p) log2(1 - p), and 0 at the ends."""
    return -sum(p * log2(p) for p in (share, 1 - share) if p > 0)
