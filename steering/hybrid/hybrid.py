"""Hybrid: a base and a tuned model in step, with one decision a token about who writes it.

A hybrid is two values: a `Router` says when a token is not left to the base model alone, an `Intervention` says what
happens there. Both are protocols: a new kind is a frozen dataclass that inherits one of them, in a file of its own, and
an entry in `steering.hybrid.routers.ROUTERS` or `steering.hybrid.interventions.INTERVENTIONS`. What it does not write
itself has a default: nothing is read, nothing has to be placed, no category is named. The models' passes are watched
(`WatchedDecoder`), and may begin above some blocks (`begun_at`).
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from hashlib import sha256
from math import inf
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64
from torch import Tensor

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.models.passes import handing_on
from lab.records.provenance import digest
from lab.sampling.decoder import Batch, CachedDecoder, Crossing, OpenDecoder, Proposal, left_padded
from lab.sampling.trace import ROUTES
from probes.capture.site import Site, hook_site
from probes.sae.dictionary import Sae
from steering.vector import SteeringVector


class View(NamedTuple):
    """What one model of a hybrid can be asked."""

    logits: Float[Tensor, "row d_vocab"]
    """Of the next token, at temperature 1."""
    streams: Mapping[Site, Float[Tensor, "row d_model"]]
    """At the last token, for the sites that the hybrid reads."""


class WatchedDecoder:
    """One full pass a token, as in `CachedDecoder`; what is read at a site is what that pass computes there."""

    def __init__(self, model: Model, batch: Batch, n_kept: Mapping[Site, int | None]) -> None:
        """`n_kept` says for each site how many of the last positions are kept; None is all of them."""
        self.model = model
        self.n_kept = n_kept
        self.max_rows = len(batch.keys)
        with self._watching() as read:
            self.cached = CachedDecoder(model, batch)
        self.streams = {site: self._kept(site, stream)[batch.owner] for site, stream in read.items()}

    def view(self) -> View:
        """What the model shows of the next token."""
        return View(self.cached.logits, {site: stream[:, -1] for site, stream in self.streams.items()})

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        with self._watching() as read:
            self.cached.append(tokens)
        for site, stream in read.items():
            earlier = [] if self.n_kept[site] == 1 else [self.streams[site]]
            self.streams[site] = self._kept(site, torch.cat([*earlier, stream], dim=1))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.cached.keep(rows)
        self.streams = {site: stream[rows] for site, stream in self.streams.items()}

    def _kept(self, site: Site, stream: Float[Tensor, "some pos d_model"]) -> Float[Tensor, "some kept d_model"]:
        n = self.n_kept[site]
        return stream if n is None else stream[:, -n:]

    @contextmanager
    def _watching(self) -> Iterator[dict[Site, Tensor]]:
        """Within the block, what a pass computes at each site."""
        read: dict[Site, Tensor] = {}

        def note(site: Site, stream: Tensor) -> None:
            # A prompt may be read in parts.
            read[site] = torch.cat([read[site], stream], dim=1) if site in read else stream

        with ExitStack() as stack:
            for site in self.n_kept:
                stack.callback(hook_site(self.model, site, partial(note, site)).remove)
            yield read


def n_below(site: Site) -> int:
    """How many blocks have run where a pass reaches `site`; it is also the first block that has not."""
    return site.layer + (site.stream == "resid_post")


@contextmanager
def begun_at(model: Model, site: Site, stream: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Within the block a pass of `model` over tokens of this shape has `stream` at `site`; no block below it runs.

    The pass still makes masks and positions for every block above, whatever the family, and edits at `site` that are
    put in inside the block act on `stream`. It must not be given a cache that the blocks below are to fill.
    """
    below = slice(n_below(site))
    with handing_on(zip(model.anatomy.blocks[below], model.anatomy.returned[below], strict=True)):
        handle = hook_site(model, site, lambda _: stream)
        try:
            yield
        finally:
            handle.remove()


Side: TypeAlias = Literal["base", "tuned"]
"""One of the two models."""


@dataclass(frozen=True, slots=True)
class Reads:
    """What a router or an intervention reads of the two models while a hybrid writes, beside the base's logits."""

    base: Mapping[Site, int | None] = field(default_factory=dict)
    """Site of the base model -> how many of the last positions are read there; None is all of them."""
    tuned: Mapping[Site, int | None] | None = None
    """The same of the tuned model; empty where its logits alone are read, None where it is left alone."""

    @property
    def asks_tuned(self) -> bool:
        """Whether the tuned model runs for it."""
        return self.tuned is not None

    def __or__(self, other: "Reads") -> "Reads":
        """What either reads."""
        tuned = [reads.tuned for reads in (self, other) if reads.tuned is not None]
        return Reads(_widest(self.base, other.base), _widest(*tuned) if tuned else None)


def _widest(*parts: Mapping[Site, int | None]) -> dict[Site, int | None]:
    found: dict[Site, int | None] = {}
    for site, n in (pair for part in parts for pair in part.items()):
        found[site] = max(found.get(site, 0), n, key=lambda count: inf if count is None else count)
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """All that may be known before a token is written in each row of a batch."""

    step: int
    """Of the completion, from 0."""
    keys: UInt64[np.ndarray, " row"]
    """Of the rows' random numbers."""
    base: View
    tuned: View | None
    """None where no part of the hybrid asks the tuned model."""

    @property
    def asked(self) -> View:
        """What the tuned model shows to a part of the hybrid whose `reads` asks it."""
        assert self.tuned is not None, "the hybrid opens the tuned model for whoever asks it"
        return self.tuned


@runtime_checkable
class Router(Protocol):
    """When a token is not left to the base model alone."""

    @abstractmethod
    def route(self, now: Moment) -> Bool[Tensor, " row"]:
        """True for the rows whose next token is routed away from the base model."""
        ...

    @property
    def reads(self) -> Reads:
        """What `route` and `category` read."""
        return Reads()

    @property
    def is_shut(self) -> bool:
        """Whether no token is ever routed: then nothing that the intervention reads is needed."""
        return False

    def placed(self, pair: ModelPair) -> "Router":
        """The same on the models' devices; ModelError or SiteError where what it reads by is of another model."""
        del pair
        return self

    def category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"] | None:
        """What a trace records of routed rows whose intervention names no category itself; None where there is none."""
        del now, rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Routed:
    """The rows of a moment whose next token is an intervention's."""

    now: Moment
    rows: Int[Tensor, " routed"]
    """Their places in the batch."""
    category: Int[Tensor, " routed"]
    """Of each, -1 where none is named."""
    base: WatchedDecoder
    """For whatever runs the base model again; its cache is left as it is, unless later tokens are to see it."""

    @property
    def keys(self) -> UInt64[np.ndarray, " routed"]:
        """Of the rows' random numbers."""
        return self.now.keys[self.rows.cpu().numpy()]

    @property
    def logits(self) -> Float[Tensor, "routed d_vocab"]:
        """The base model's own."""
        return self.now.base.logits[self.rows]

    @property
    def tuned_logits(self) -> Float[Tensor, "routed d_vocab"]:
        """The tuned model's, for an intervention whose `reads` asks it."""
        return self.now.asked.logits[self.rows]


class Written(NamedTuple):
    """What an intervention puts in the place of the base's proposal, in the routed rows alone."""

    logits: Float[Tensor, "routed d_vocab"]
    writer: Literal["steered", "tuned"]
    """Of the base's own tokens, steered; or of the tuned model's, paid for by how unlikely the base finds them."""
    choice_bits: Float[Tensor, " routed"] | None = None
    """Log2 of the number of different tokens among which the tuned model chose; None where it chose nothing."""


@runtime_checkable
class Intervention(Protocol):
    """What happens at a routed token."""

    @abstractmethod
    def write(self, here: Routed) -> Written:
        """The proposal for the routed rows."""
        ...

    @property
    def reads(self) -> Reads:
        """What `write` and `category` read."""
        return Reads()

    @property
    def categories_of(self) -> Side | None:
        """Whose stream names the category that decides what happens, if one does; the tuned one's crosses as bits."""
        return None

    def placed(self, pair: ModelPair) -> "Intervention":
        """The same on the models' devices; ModelError, VectorError or SiteError where it does not fit the models."""
        del pair
        return self

    def category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"] | None:
        """By which the routed rows differ in what happens; None where the router may name one."""
        del now, rows


@dataclass(frozen=True, slots=True)
class Hybrid:
    """When (the router) and what (the intervention).

    >>> el.Hybrid(el.routers.Disagreement(), el.interventions.Takeover()).needs_tuned
    True
    """

    router: Router
    intervention: Intervention

    @property
    def reads(self) -> Reads:
        """What both parts read."""
        return self.router.reads if self.router.is_shut else self.router.reads | self.intervention.reads

    @property
    def needs_tuned(self) -> bool:
        """Whether the tuned model runs while the hybrid writes."""
        return self.reads.asks_tuned

    def placed(self, pair: ModelPair) -> "Hybrid":
        """The same on the models' devices; raises as `open_hybrid`."""
        return Hybrid(self.router.placed(pair), self.intervention.placed(pair))


def insisting(logits: Float[Tensor, "_ d_vocab"], tokens: Int[Tensor, " row"]) -> Float[Tensor, "row d_vocab"]:
    """Logits with all probability on one of `tokens` a row; `logits` say how many there are."""
    return logits.new_full((len(tokens), logits.shape[1]), -inf).scatter(1, tokens[:, None], 0.0)


def identity(method: object) -> str:
    """Sixteen hex digits, equal for hybrids (or other ways of answering) of equal values, on whatever device."""
    return digest(_plain(method))


def _plain(value: object) -> object:
    """`value` with tensors as digests of their bytes, in what has canonical JSON."""
    if isinstance(value, Tensor):
        content = value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
        return [str(value.dtype), list(value.shape), sha256(content).hexdigest()]
    if isinstance(value, SteeringVector):
        # How a vector was found does not change what it does.
        return _plain(value.directions)
    if isinstance(value, Sae):
        return value.digest
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": type(value).__name__} | {part.name: _plain(getattr(value, part.name)) for part in fields(value)}
    return value


def open_hybrid(pair: ModelPair, hybrid: Hybrid) -> OpenDecoder:
    """A decoder for `lab.sampling.sample`: `sample(pair.base, ..., open_rows=open_hybrid(pair, hybrid))`.

    Raises ModelError, VectorError or SiteError where a probe, a taxonomy or an edit is not of the model that it is to
    read or change.
    """
    fitting = hybrid.placed(pair)
    return lambda batch: HybridDecoder(pair, fitting, batch)


def as_asked(model: Model, batch: Batch) -> Batch:
    """The batch with its problems in the format of `model`, where it has one of its own."""
    asked = [model.prompt_ids(problem.prompt, problem.opening) for problem in batch.asked]
    if not asked:
        return batch
    padded = left_padded(model, asked)
    return replace(batch, prompts=padded.tokens, mask=padded.mask)


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
        self.width, self.n_shared = pair.base.anatomy.d_vocab, pair.d_vocab
        self.tuned = (
            None if reads.tuned is None else WatchedDecoder(pair.tuned, as_asked(pair.tuned, batch), reads.tuned)
        )

    def propose(self) -> Proposal:
        """The base model's distribution, replaced at the routed rows."""
        base, tuned = self._shared(self.base), None if self.tuned is None else self._shared(self.tuned)
        now = Moment(step=self.step, keys=self.keys, base=base, tuned=tuned)
        routed = self.hybrid.router.route(now)
        rows = routed.nonzero()[:, 0]
        if not len(rows):
            return Proposal(base.logits, routed.to(torch.uint8))
        category = self._category(now, rows)
        written = self.hybrid.intervention.write(Routed(now=now, rows=rows, category=category, base=self.base))
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

    def _shared(self, decoder: WatchedDecoder) -> View:
        """What a model shows, its logits as wide as the base's and without tokens that only one of the models has."""
        view = decoder.view()
        if view.logits.shape[1] == self.width == self.n_shared:
            return view
        shared = view.logits[:, : self.n_shared]
        return view._replace(logits=torch.nn.functional.pad(shared, (0, self.width - self.n_shared), value=-inf))

    def _category(self, now: Moment, rows: Int[Tensor, " routed"]) -> Int[Tensor, " routed"]:
        """By the intervention, or else by the router; -1 where neither names one."""
        for part in (self.hybrid.intervention, self.hybrid.router):
            if (category := part.category(now, rows)) is not None:
                return category
        return torch.full_like(rows, -1)
