"""Site: the one way to name a place in a network."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lab.errors import SiteError
from lab.models.load import Model

Stream = Literal["resid_pre", "resid_post"]


@dataclass(frozen=True, slots=True, order=True)
class Site:
    """A stream at a layer; layers count from 0, `resid_post` of block N is what block N + 1 reads."""

    layer: int
    stream: Stream = "resid_post"

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
    """SiteError unless the model has this layer."""
    if not 0 <= site.layer < model.anatomy.n_layers:
        raise SiteError(
            f"layer {site.layer} is out of range: {model.name} has {model.anatomy.n_layers} layers, "
            f"want 0 to {model.anatomy.n_layers - 1}"
        )


Change = Callable[[Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"] | None]
"""Sees a stream and may return another in its place; None leaves it."""


def hook_site(model: Model, site: Site, change: Change) -> RemovableHandle:
    """Registers `change` at `site`; the caller removes the handle. Raises SiteError for a layer out of range."""
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
