"""above: a forward pass that begins at a site, with a stream that is known there."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager

from jaxtyping import Float
from torch import Tensor, nn

from lab.models.load import Model
from probes.site import Site, hook_site


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
