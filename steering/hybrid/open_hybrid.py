"""open_hybrid: a hybrid as a decoder, for the one decoding loop."""

import torch
from jaxtyping import Int
from torch import Tensor

from lab.models.pair import ModelPair
from lab.sampling.decoder import Batch, Crossing, Decoder, OpenDecoder, Proposal
from lab.sampling.trace import ROUTES
from steering.hybrid.hybrid import Hybrid, Moment, Routed
from steering.hybrid.watched_decoder import WatchedDecoder


def open_hybrid(pair: ModelPair, hybrid: Hybrid) -> OpenDecoder:
    """A decoder for `lab.sampling.sample`: `sample(pair.base, ..., open_rows=open_hybrid(pair, hybrid))`.

    Raises ModelError, VectorError or SiteError where a probe, a taxonomy or an edit is not of the model that it is to
    read or change.
    """
    fitting = hybrid.placed(pair)

    def opened(batch: Batch) -> Decoder:
        return HybridDecoder(pair, fitting, batch)

    return opened


class HybridDecoder:
    """Rows that two cached models carry forward together; the tuned one only where it is needed.

    Each model makes one full pass a token. What is steered runs again for the routed rows alone, from the lowest site
    of the edits up, on the stream that the full pass left there. The base's cache holds its own keys and values without
    any edit, except at positions steered with memory "kept": there, those of the layers above the edit are computed
    under it. The tuned model reads the same tokens and never an edit.
    """

    def __init__(self, pair: ModelPair, hybrid: Hybrid, batch: Batch) -> None:
        self.hybrid = hybrid
        self.keys = batch.keys
        self.step = 0
        reads = hybrid.reads
        self.base = WatchedDecoder(pair.base, batch, reads.base)
        self.tuned = None if reads.tuned is None else WatchedDecoder(pair.tuned, batch, reads.tuned)

    def propose(self) -> Proposal:
        """The base model's distribution, replaced at the routed rows."""
        base, tuned = self.base.view(), None if self.tuned is None else self.tuned.view()
        now = Moment(step=self.step, keys=self.keys, base=base, tuned=tuned)
        routed = self.hybrid.router.route(now)
        rows = routed.nonzero()[:, 0]
        if not len(rows):
            return Proposal(base.logits, routed.to(torch.uint8))
        category = self._category(now, rows)
        here = Routed(now=now, rows=rows, category=category, base=self.base)
        written = self.hybrid.intervention.write(here)
        choice_bits = torch.zeros(len(routed), device=rows.device)
        if written.choice_bits is not None:
            choice_bits = choice_bits.index_copy(0, rows, written.choice_bits)
        crossing = Crossing(
            category=torch.full_like(routed, -1, dtype=torch.long).index_copy(0, rows, category),
            choice_bits=choice_bits,
            own_logits=base.logits,
        )
        route = routed.to(torch.uint8) * ROUTES.index(written.writer)
        return Proposal(base.logits.index_copy(0, rows, written.logits), route, crossing)

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

    def _category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"]:
        """By the intervention, or else by the router; -1 where neither names one."""
        for part in (self.hybrid.intervention, self.hybrid.router):
            category = part.category(now, rows)
            if category is not None:
                return category
        return torch.full_like(rows, -1)
