"""Hybrid: a base and a tuned model in step, with one decision a token about who writes it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from hashlib import sha256
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.models.pair import ModelPair
from lab.records.provenance import digest
from lab.sampling.decoder import Batch, Crossing, Decoder, OpenDecoder, Proposal
from lab.sampling.trace import ROUTES
from probes.sae.dictionary import Sae
from steering.edit import apply_each
from steering.hybrid.candidates import candidates, chosen, deltas, n_different
from steering.hybrid.intervention import (
    Intervention,
    LikelyToken,
    SecondChoice,
    Steer,
    Sweep,
    Takeover,
    TunedChooser,
    table_of,
    uses_tuned,
)
from steering.hybrid.placed import base_sites, placed_act, placed_router, start, tuned_sites
from steering.hybrid.router import InCategories, Never, Router, View, asks_tuned, route
from steering.hybrid.vector_table import LIKELY_TOKEN, PerCategory, draws, edit_of
from steering.hybrid.watched_decoder import WatchedDecoder, begun_at, n_below
from steering.vector import SteeringVector


@dataclass(frozen=True, slots=True)
class Hybrid:
    """When (the router) and what (the act).

    >>> el.Hybrid(el.routers.Disagreement(), el.interventions.Takeover()).needs_tuned
    True
    """

    router: Router
    intervention: Intervention

    @property
    def needs_tuned(self) -> bool:
        """Whether the tuned model runs while the hybrid writes."""
        return asks_tuned(self.router) or (uses_tuned(self.intervention) and not isinstance(self.router, Never))


STEERED, TUNED = ROUTES.index("steered"), ROUTES.index("tuned")


def open_hybrid(pair: ModelPair, hybrid: Hybrid) -> OpenDecoder:
    """Rows for `lab.sampling.sample`: `sample(pair.base, ..., open_rows=open_hybrid(pair, hybrid))`.

    Raises ModelError, VectorError or SiteError where a probe, a taxonomy or an edit is not of the model that it is to
    read or change.
    """
    fitting = Hybrid(placed_router(pair, hybrid.router), placed_act(pair, hybrid.intervention))

    def opened(batch: Batch) -> Decoder:
        return HybridRows(pair, fitting, batch)

    return opened


class Written(NamedTuple):
    """What an act puts in the place of the base's proposal, in the routed rows alone."""

    logits: Float[Tensor, "routed d_vocab"]
    route: int
    """Index into `ROUTES`."""
    choice_bits: Float[Tensor, " routed"]


class HybridRows:
    """Rows that two cached models carry forward together; the tuned one only where it is needed.

    Each model makes one full pass a token. What is steered runs again for the routed rows alone, from the lowest site
    of the edits up, on the stream that the full pass left there. The base's cache holds its own keys and values without
    any edit, except at positions steered with memory "kept": there, those of the layers above the edit are computed
    under it. The tuned model reads the same tokens and never an edit.
    """

    def __init__(self, pair: ModelPair, hybrid: Hybrid, batch: Batch) -> None:
        self.hybrid = hybrid
        self.keys = batch.keys
        self.max_rows = len(batch.keys)
        self.step = 0
        self.base = WatchedDecoder(pair.base, batch, base_sites(hybrid.router, hybrid.intervention))
        wanted = tuned_sites(hybrid.router, hybrid.intervention)
        self.tuned = WatchedDecoder(pair.tuned, batch, wanted) if hybrid.needs_tuned else None
        self.added = (
            deltas(pair.base, hybrid.intervention.table.edits) if isinstance(hybrid.intervention, Sweep) else {}
        )

    def propose(self) -> Proposal:
        """The base model's distribution, replaced at the routed rows."""
        base = self.base.view()
        tuned = None if self.tuned is None else self.tuned.view()
        routed = route(self.hybrid.router, step=self.step, keys=self.keys, base=base, tuned=tuned)
        rows = routed.nonzero()[:, 0]
        if not len(rows):
            return Proposal(base.logits, routed.to(torch.uint8))
        category = self._category(rows, base, tuned)
        logits, writer, bits = self._written(rows, category, base, tuned)
        crossing = Crossing(
            category=torch.full_like(routed, -1, dtype=torch.long).index_copy(0, rows, category),
            choice_bits=torch.zeros(len(routed), device=rows.device).index_copy(0, rows, bits),
            own_logits=base.logits,
        )
        return Proposal(base.logits.index_copy(0, rows, logits), routed.to(torch.uint8) * writer, crossing)

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

    def _category(self, rows: Int[Tensor, " routed"], base: View, tuned: View | None) -> Int[Tensor, " routed"]:
        """By the table's taxonomy, or else by the router's; -1 where neither has one."""
        table, router = table_of(self.hybrid.intervention), self.hybrid.router
        if isinstance(table, PerCategory):
            taxonomy, view = table.taxonomy, tuned if table.reader == "tuned" else base
        elif isinstance(router, InCategories):
            taxonomy, view = router.taxonomy, tuned
        else:
            return torch.full_like(rows, -1)
        assert view is not None, "the hybrid opens the tuned model for whoever reads its stream"
        return taxonomy.category(view.streams[taxonomy.site][rows])

    def _written(
        self, rows: Int[Tensor, " routed"], category: Int[Tensor, " routed"], base: View, tuned: View | None
    ) -> Written:
        keys, logits = self.keys[rows.cpu().numpy()], base.logits[rows]
        free = torch.zeros(len(rows), device=rows.device)
        match self.hybrid.intervention:
            case Steer() as steer:
                edits = edit_of(steer.table, keys=keys, step=self.step, category=category)
                return Written(self._steered(steer, rows, edits), STEERED, free)
            case Sweep() as sweep:
                edits = edit_of(sweep.table, keys=keys, step=self.step, category=category)
                tokens = candidates(self.base, sweep, self.added, rows, edits, max_rows=self.max_rows)
                theirs = None if tuned is None else tuned.logits[rows]
                token = chosen(sweep.chooser, tokens, keys=keys, step=self.step, tuned_logits=theirs)
                bits = n_different(tokens).log2() if isinstance(sweep.chooser, TunedChooser) else free
                return Written(insisting(logits, token), STEERED, bits)
            case Takeover():
                assert tuned is not None, "a takeover opens the tuned model"
                return Written(tuned.logits[rows], TUNED, free)
            case SecondChoice():
                return Written(insisting(logits, logits.topk(2, dim=-1).indices[:, 1]), STEERED, free)
            case LikelyToken(top=top):
                first = logits.topk(min(top, logits.shape[1]), dim=-1).indices
                place = draws(LIKELY_TOKEN, keys, self.step, first.shape[1], first.device)
                return Written(insisting(logits, first.gather(1, place[:, None])[:, 0]), STEERED, free)

    def _steered(
        self, steer: Steer, rows: Int[Tensor, " routed"], edits: Int[Tensor, " routed"]
    ) -> Float[Tensor, "routed d_vocab"]:
        site, model, cached = start(steer.table), self.base.model, self.base.cached
        run = cached.revise if steer.memory == "kept" else cached.again
        with (
            begun_at(model, site, self.base.streams[site][rows, -1:]),
            apply_each(model, steer.table.edits, edits),
        ):
            return run(rows, first_layer=n_below(site))


def insisting(logits: Float[Tensor, "row d_vocab"], tokens: Int[Tensor, " row"]) -> Float[Tensor, "row d_vocab"]:
    """Logits of the same shape with all probability on `tokens`."""
    return torch.full_like(logits, -torch.inf).scatter(1, tokens[:, None], 0.0)


def identity(hybrid: Hybrid) -> str:
    """Sixteen hex digits; equal for hybrids of equal values, whatever object or device they are on."""
    return digest(_plain(hybrid))


def _plain(value: object) -> object:
    """`value` with tensors as digests of their bytes, in what has canonical JSON."""
    match value:
        case Tensor():
            content = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            return [str(value.dtype), list(value.shape), sha256(content).hexdigest()]
        case SteeringVector():
            # How a vector was found does not change what it does.
            return _plain(value.directions)
        case Sae(digest=own):
            return own
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case tuple():
            return [_plain(item) for item in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return {"kind": type(value).__name__} | {
                field.name: _plain(getattr(value, field.name)) for field in fields(value)
            }
        case _:
            return value
