"""Site: the one way to name a place in a network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, assert_never, get_args, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from lab.models.load import Model
from lab.records.errors import SiteError

Stream = Literal["resid_pre", "resid_mid", "resid_post"]
"""In the order in which a pass reaches them: what a block reads, what its MLP reads before the norm, what it gives."""


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A stream at a layer; layers count from 0, `resid_post` of block N is what block N + 1 reads.

    >>> str(el.Site(2)), el.Site.parse("blocks.2.hook_resid_post") == el.Site(2)
    ('blocks.2.hook_resid_post', True)
    """

    layer: int
    stream: Stream = "resid_post"

    @property
    def depth(self) -> tuple[int, int]:
        """Sorts sites in the order in which a pass reaches them."""
        return self.layer, get_args(Stream).index(self.stream)

    def __str__(self) -> str:
        """As TransformerLens writes it, for example `blocks.3.hook_resid_post`."""
        return f"blocks.{self.layer}.hook_{self.stream}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """The inverse of `str`; raises SiteError."""
        match = re.fullmatch(r"blocks\.([0-9]+)\.hook_(\w+)", text)
        if match is None or match[2] not in get_args(Stream):
            raise SiteError(
                f"no site is called {text!r}: want blocks.N.hook_S with S one of {', '.join(get_args(Stream))}"
            )
        return cls(int(match[1]), match[2])  # pyright: ignore[reportArgumentType]


def check_site(model: Model, site: Site) -> None:
    """SiteError unless the model has this layer, and this stream in it."""
    if not 0 <= site.layer < model.anatomy.n_layers:
        raise SiteError(
            f"layer {site.layer} is out of range: {model.name} has {model.anatomy.n_layers} layers, "
            f"want 0 to {model.anatomy.n_layers - 1}"
        )
    if site.stream == "resid_mid" and not model.anatomy.has_resid_mid:
        raise SiteError(
            f"{site} is no place in {model.name}: in a {model.anatomy.family!r} like this one the MLP does not read "
            "the stream that attention has just added to; want resid_pre or resid_post"
        )


Change = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"] | None]
"""Sees a stream and may return another in its place; None leaves it."""


@runtime_checkable
class Handle(Protocol):
    """What takes a hook out again."""

    def remove(self) -> None:
        """Leaves the network as it was."""
        ...


def hook_site(model: Model, site: Site, change: Change) -> Handle:
    """Registers `change` at `site`; the caller removes the handle. Raises as `check_site`."""
    check_site(model, site)
    block = model.anatomy.blocks[site.layer]
    match site.stream:
        case "resid_post":

            def after(_: nn.Module, __: tuple[object, ...], output: Tensor) -> Tensor | None:
                return change(output)

            return block.register_forward_hook(after)
        case "resid_pre":

            def before(_: nn.Module, args: tuple[object, ...]) -> tuple[object, ...] | None:
                head, *rest = args
                assert isinstance(head, Tensor), "a block takes the residual stream first"
                changed = change(head)
                return None if changed is None else (changed, *rest)

            return block.register_forward_pre_hook(before)
        case "resid_mid":
            return _MidHook(block, model.anatomy.attentions[site.layer], change)
        case never:
            assert_never(never)


class _MidHook:
    """The stream between attention and MLP, which no module takes or gives: the block's input and what attention adds.

    A change goes into what attention adds, as a difference, so that where nothing changes no bit does.
    """

    def __init__(self, block: nn.Module, attention: nn.Module, change: Change) -> None:
        self.change = change
        self.pre: Tensor | None = None
        self.handles = (
            block.register_forward_pre_hook(self.enter),
            attention.register_forward_hook(self.add),
            block.register_forward_hook(self.leave, always_call=True),
        )

    def enter(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.pre = args[0]

    def add(self, _: nn.Module, __: tuple[Any, ...], output: tuple[Any, ...]) -> tuple[Any, ...] | None:
        added, *rest = output
        assert self.pre is not None, "attention runs inside its block"
        mid = self.pre + added
        changed = self.change(mid)
        return None if changed is None else (added + (changed - mid), *rest)

    def leave(self, *_: object) -> None:
        self.pre = None

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()
