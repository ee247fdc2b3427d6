"""Hybrid: a base and a tuned model in step, with one decision a token about who writes it."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.sampling.rows import Batch, CachedRows, Crossing, OpenRows, Proposal, Rows
from lab.seeds import uniforms
from steering.edit import Edit, apply_each
from steering.hybrid.act import Act, LikelyToken, SecondChoice, Steer, Sweep, Takeover, uses_tuned
from steering.hybrid.router import Never, Router, asks_tuned, route
from steering.hybrid.vector_table import Drawn
from steering.hybrid.view import View


@dataclass(frozen=True, slots=True)
class Hybrid:
    """When (the router) and what (the act)."""

    router: Router
    act: Act

    @property
    def needs_tuned(self) -> bool:
        """Whether the tuned model runs while the hybrid writes."""
        return asks_tuned(self.router) or (uses_tuned(self.act) and not isinstance(self.router, Never))


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
            base=View(base.logits, {}),
            tuned=None if tuned is None else View(tuned.logits, {}),
        )
        rows = routed.nonzero()[:, 0]
        if not len(rows):
            return base
        match self.hybrid.act:
            case Steer(table=Drawn(edits=edits), memory="forgotten"):
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
            case Steer() | Sweep():
                raise NotImplementedError
        nothing = torch.zeros(len(routed), device=routed.device)
        return Proposal(logits, routed.to(torch.uint8) * written_by, Crossing(nothing.long() - 1, nothing, base.logits))

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
