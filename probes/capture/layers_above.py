"""LayersAbove: what a network does above a site, as a function of the stream there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.models.load import Model
from lab.records.errors import SiteError
from probes.capture.site import Handle, Site, hook_site


class Call(NamedTuple):
    """One block above the site, and what it is given beside the stream, of a batch of one."""

    block: nn.Module
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayersAbove:
    """Some texts as they stand at a site, and the blocks, the norm and the head above it."""

    model: Model
    stream: Float[Tensor, "text pos d_model"]
    """What the model computes itself at the site, every text moved to the front, where padding cannot reach it."""
    lengths: Int[Tensor, " text"]
    """Tokens of each text; what the stream holds behind them means nothing."""
    calls: tuple[Call, ...]

    def logits(
        self, stream: Float[Tensor, "edit pos d_model"], places: Int[Tensor, "edit place"]
    ) -> Float[Tensor, "edit place d_vocab"]:
        """Logits at `places`, counted from 0 at the start of a text, after an edited stream; gradients pass.

        A row may be an edit of any of the texts, and there may be any number of rows: they must only be as wide as
        `self.stream`. With `self.stream` itself these are the logits of the plain forward pass.
        """
        for call in self.calls:
            stream = call.block(stream, *call.args, **call.kwargs)
        chosen = stream.gather(1, places[:, :, None].expand(-1, -1, stream.shape[2]))
        logits = self.model.anatomy.unembed(self.model.anatomy.final_norm(chosen))
        # Of all families with a layout, only the Gemmas do something behind the head.
        cap = getattr(self.model.network.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def layers_above(
    model: Model, site: Site, tokens: Int[Tensor, "text pos"], mask: Bool[Tensor, "text pos"]
) -> LayersAbove:
    """Reads the texts once, and keeps their stream at `site` and what the blocks above it are given.

    Padding may stand on either side. As in `capture`, texts are moved to the front, where causal attention needs no
    mask; so what a block is given beside the stream (rotary angles, the causal or windowed mask) is the same for every
    text, and is kept once. Raises SiteError for a layer out of range, for `resid_mid`, which has half a block above it,
    and where a block did not run.
    """
    if site.stream == "resid_mid":
        raise SiteError(
            f"{site} lies inside a block, and only whole blocks are run again above a site: "
            "take resid_pre or resid_post"
        )
    to_front = (~mask).long().argsort(dim=1, stable=True)
    n_texts, width = mask.shape
    first = site.layer + (site.stream == "resid_post")
    streams: list[Tensor] = []
    calls: list[Call] = []

    def keep(stream: Float[Tensor, "text pos d_model"]) -> None:
        streams.append(stream.detach().clone())

    def note(block: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        # The stream comes first, as `hook_site` also has it.
        behind = tuple(_of_one(value, n_texts) for value in args[1:])
        calls.append(Call(block, behind, {name: _of_one(value, n_texts) for name, value in kwargs.items()}))

    handles: list[Handle] = []
    try:
        handles.append(hook_site(model, site, keep))
        handles += [block.register_forward_pre_hook(note, with_kwargs=True) for block in model.anatomy.blocks[first:]]
        model.network(
            input_ids=tokens.gather(1, to_front),
            position_ids=torch.arange(width, device=mask.device)[None],
            use_cache=False,
            logits_to_keep=1,
        )
    finally:
        for handle in handles:
            handle.remove()
    if len(streams) != 1 or len(calls) != model.anatomy.n_layers - first:
        raise SiteError(
            f"a pass of {model.name} ran {len(calls)} blocks above {site}, want {model.anatomy.n_layers - first}: its "
            "forward pass skips blocks"
        )
    return LayersAbove(model=model, stream=streams[0], lengths=mask.sum(dim=1), calls=tuple(calls))


def _of_one(given: object, n_texts: int) -> object:
    """What a block is given, for the first text alone; it is the same for all."""
    if isinstance(given, Tensor):
        return given[:1] if given.ndim > 1 and given.shape[0] == n_texts else given
    return tuple(_of_one(part, n_texts) for part in given) if isinstance(given, tuple) else given
