"""WatchedDecoder: a cached decoder that keeps what its passes compute at some sites."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.models.load import Model
from lab.sampling.decoder import Batch, CachedDecoder
from probes.capture.site import Site, hook_site


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
        self.streams: dict[Site, Float[Tensor, "row pos d_model"]] = {
            site: self._kept(site, stream)[batch.owner] for site, stream in read.items()
        }

    def view(self) -> View:
        """What the model shows of the next token."""
        last = {site: stream[:, -1] for site, stream in self.streams.items()}
        return View(self.cached.logits, last)

    def append(self, tokens: Int[Tensor, " row"]) -> None:
        """One forward pass over one position."""
        with self._watching() as read:
            self.cached.append(tokens)
        for site, stream in read.items():
            earlier = [] if self.n_kept[site] == 1 else [self.streams[site]]
            self.streams[site] = self._kept(site, torch.cat([*earlier, stream], dim=1))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Drops the other rows."""
        self.cached.keep(rows)
        self.streams = {site: stream[rows] for site, stream in self.streams.items()}

    def _kept(self, site: Site, stream: Float[Tensor, "some pos d_model"]) -> Float[Tensor, "some kept d_model"]:
        n = self.n_kept[site]
        return stream if n is None else stream[:, -n:]

    @contextmanager
    def _watching(self) -> Iterator[dict[Site, Tensor]]:
        """Within the block, what a pass computes at each site."""
        read: dict[Site, Tensor] = {}

        def watch(site: Site) -> None:
            def note(stream: Float[Tensor, "some pos d_model"]) -> None:
                read[site] = stream

            stack.callback(hook_site(self.model, site, note).remove)

        with ExitStack() as stack:
            for site in self.n_kept:
                watch(site)
            yield read


def lowest(sites: Collection[Site]) -> Site:
    """The site that a pass reaches first; of a block's output and the next one's input, which are equal, the output."""
    return min(sites, key=lambda site: (n_below(site), site.stream == "resid_pre"))


def n_below(site: Site) -> int:
    """How many blocks have run where a pass reaches `site`; it is also the first block that has not."""
    return site.layer + (site.stream == "resid_post")


@contextmanager
def begun_at(model: Model, site: Site, stream: Float[Tensor, "batch pos d_model"]) -> Iterator[None]:
    """Within the block a pass of `model` over tokens of this shape has `stream` at `site`; no block below it runs.

    The pass still makes masks and positions for every block above, whatever the family, and edits at `site` that are
    put in inside the block act on `stream`. It must not be given a cache that the blocks below are to fill.
    """

    def known(_: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return stream

    with ExitStack() as stack:
        for block in model.anatomy.blocks[: n_below(site)]:
            stack.enter_context(_idle(block))
        stack.callback(hook_site(model, site, known).remove)
        yield


@contextmanager
def _idle(block: nn.Module) -> Iterator[None]:
    """Within the context `block` hands on what it reads; its hooks are called as ever."""
    # Offloading and the like replace `forward` in the same way.
    own = vars(block).get("forward")
    vars(block)["forward"] = _hand_on
    try:
        yield
    finally:
        if own is None:
            del vars(block)["forward"]
        else:
            vars(block)["forward"] = own


def _hand_on(stream: Tensor, *_: object, **__: object) -> Tensor:
    return stream
