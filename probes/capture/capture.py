"""capture: the activations of a model at some sites, by plain hooks, in a pass that stops after the last site."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lab.models.anatomy import require_one_rotation
from lab.models.load import Model, finished
from lab.models.passes import Enough, arguments, first_of, stream_of, with_stream
from lab.records.errors import SiteError
from lab.sampling.decoder import left_padded
from probes.capture.site import Handle, Site, hook_site


@torch.no_grad()
def capture(
    model: Model, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
    """Site -> activations in the model's dtype, on its device; entries where `mask` is False mean nothing.

    Padding may stand on either side: the pass sees every text moved to the front, where causal attention needs no mask,
    so that with sdpa memory grows with the length of the texts and not with its square (families without sdpa, such as
    Gemma 2, compute whole attention matrices all the same). The logits are unchanged by being watched, and blocks above
    the last site are not run. Raises SiteError for a layer out of range, for no site at all, or where a hook did not
    fire.
    """
    if not sites:
        raise SiteError("capture was given no site: want at least one, such as Site(0)")
    require_one_rotation(model.anatomy, mask.shape[1])
    captured: dict[Site, Tensor] = {}
    ordered = sorted(set(sites), key=lambda site: site.depth)
    to_front = (~mask).long().argsort(dim=1, stable=True)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(to_front)
    in_front = torch.equal(to_front, positions)
    back = to_front.argsort(dim=1)[:, :, None]

    def watch(site: Site) -> Handle:
        def keep(stream: Float[Tensor, "batch pos d_model"]) -> None:
            stream = stream.detach()
            captured[site] = stream.clone() if in_front else stream.gather(1, back.expand_as(stream))
            if site == ordered[-1]:
                raise Enough

        return hook_site(model, site, keep, reading=True)

    with suppress(Enough), ExitStack() as hooks:
        for site in ordered:
            hooks.callback(watch(site).remove)
        given = {"input_ids": tokens.gather(1, to_front), "position_ids": positions, "use_cache": False}
        model.network(**arguments(model.network, **given))
    missing = [str(site) for site in ordered if site not in captured]
    if missing:
        raise SiteError(
            f"hooks at {', '.join(missing)} never fired in {model.name}: its forward pass skips these blocks"
        )
    return {site: captured[site] for site in sites}


MOST = 10.0
"""A first token so many times as long as others is a sink: of a hundred tokens' squares it has half."""


def sink_ratios(model: Model, sites: Sequence[Site], texts: Sequence[Sequence[int]]) -> Mapping[Site, float]:
    """L2 norm of the stream at the first token of `texts` (token ids), over that at the other tokens, means of both.

    In most language models the first token is an attention sink: from some block on its stream is a hundred times as
    long as any other, and hardly depends on the text (Sun et al. 2024, "Massive activations"). Raises SiteError for a
    layer out of range, and where no text has a second token.
    """
    read = left_padded(model, texts)
    place = read.mask.cumsum(dim=1)
    if not (place > 1).any():
        raise SiteError(f"{len(texts)} texts of at most one token: want a second one to compare the first with")
    ratios: dict[Site, float] = {}
    for site, stream in capture(model, read.tokens, read.mask, sites).items():
        norms = torch.linalg.vector_norm(stream.float(), dim=-1)
        ratios[site] = float(norms[read.mask & (place == 1)].mean() / norms[place > 1].mean())
    return ratios


def require_no_sink(model: Model, layers: Sequence[int], texts: Sequence[Sequence[int]]) -> None:
    """SiteError, with the blocks that can be searched, where the output of one of `layers` has a sink.

    An autoencoder that learns such a stream learns the sink and nothing else, and explains 100 % of its variance.
    """
    ratios = sink_ratios(model, [Site(layer) for layer in range(model.anatomy.n_layers)], texts)
    drowned = [layer for layer in layers if ratios[Site(layer)] > MOST]
    if not drowned:
        return
    clear = [str(site.layer) for site, ratio in ratios.items() if ratio <= MOST]
    told = ", ".join(f"block {layer} ({ratios[Site(layer)]:.0f} times)" for layer in drowned)
    raise SiteError(
        f"features cannot be sought in {model.name} at {told}: there the stream of a text's first token is so many "
        f"times as long as that of the others, and an SAE would learn little else; try blocks {', '.join(clear)}"
        if clear
        else f"features cannot be sought in {model.name}: at every block the stream of a text's first token is more "
        f"than {MOST:g} times as long as that of the others"
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayersAbove:
    """Some texts as they stand at a site, and the blocks, the norm and the head above it."""

    model: Model
    stream: Float[Tensor, "text pos d_model"]
    """What the model computes itself at the site, every text moved to the front, where padding cannot reach it."""
    lengths: Int[Tensor, " text"]
    """Tokens of each text; what the stream holds behind them means nothing."""
    calls: tuple[Callable[[Tensor], Tensor], ...]
    """The blocks above the site; what they are given beside the stream is of a batch of one."""

    def logits(
        self, stream: Float[Tensor, "edit pos d_model"], places: Int[Tensor, "edit place"]
    ) -> Float[Tensor, "edit place d_vocab"]:
        """Logits at `places`, counted from 0 at the start of a text, after an edited stream; gradients pass.

        A row may be an edit of any of the texts, and there may be any number of rows: they must only be as wide as
        `self.stream`. With `self.stream` itself these are the logits of the plain forward pass.
        """
        for call in self.calls:
            stream = call(stream)
        chosen = stream.gather(1, places[:, :, None].expand(-1, -1, stream.shape[2]))
        network, anatomy = self.model.network, self.model.anatomy
        logits = anatomy.unembed(anatomy.final_norm(chosen))
        # Behind the head some families scale, and some have a soft cap.
        return finished(network, anatomy.unembed, logits.flatten(0, 1)).reshape(logits.shape)


@torch.no_grad()
def layers_above(
    model: Model, site: Site, tokens: Int[Tensor, "text pos"], mask: Bool[Tensor, "text pos"]
) -> LayersAbove:
    """Reads the texts once, and keeps their stream at `site` and what the blocks above it are given.

    Padding may stand on either side. As in `capture`, texts are moved to the front, where causal attention needs no
    mask; so what a block is given beside the stream (rotary angles, the causal or windowed mask) is the same for every
    text, and is kept once. Raises SiteError for a layer out of range, for `resid_mid`, which has half a block above it,
    where a block did not run, and where one is given more of a text than the stream.
    """
    if site.stream in ("resid_mid", "router"):
        raise SiteError(
            f"{site} lies inside a block, and only whole blocks are run again above a site: "
            "take resid_pre or resid_post"
        )
    require_one_rotation(model.anatomy, mask.shape[1])
    to_front = (~mask).long().argsort(dim=1, stable=True)
    width = mask.shape[1]
    first = site.layer + (site.stream == "resid_post")
    streams: list[Tensor] = []
    calls: list[Callable[[Tensor], Tensor]] = []

    def keep(stream: Float[Tensor, "text pos d_model"]) -> None:
        streams.append(stream.detach().clone())

    def note(block: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        read = stream_of(args, kwargs)
        behind = tuple(_of_one(value, read) for value in args)
        named = {name: _of_one(value, read) for name, value in kwargs.items()}

        def again(stream: Float[Tensor, "edit pos d_model"]) -> Float[Tensor, "edit pos d_model"]:
            changed, others = with_stream(behind, named, stream)
            return first_of(block(*changed, **others))

        calls.append(again)

    ends: list[Tensor] = []
    with ExitStack() as hooks:
        hooks.callback(hook_site(model, site, keep).remove)
        hooks.callback(model.anatomy.final_norm.register_forward_hook(lambda *given: ends.append(given[2])).remove)
        hooks.callback(model.anatomy.unembed.register_forward_pre_hook(lambda *given: ends.append(given[1][0])).remove)
        for block in model.anatomy.blocks[first:]:
            hooks.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
        given = {"input_ids": tokens.gather(1, to_front), "position_ids": torch.arange(width, device=mask.device)[None]}
        model.network(**arguments(model.network, **given, use_cache=False, logits_to_keep=1))
    if len(streams) != 1 or len(calls) != model.anatomy.n_layers - first:
        raise SiteError(
            f"a pass of {model.name} ran {len(calls)} blocks above {site}, want {model.anatomy.n_layers - first}: its "
            "forward pass skips blocks"
        )
    if len(ends) > 1 and not torch.equal(ends[-2][:, -1], ends[-1][:, -1]):
        raise SiteError(f"{model.name} does something between its final norm and its head, which is not run again here")
    return LayersAbove(model=model, stream=streams[0], lengths=mask.sum(dim=1), calls=tuple(calls))


def _of_one(given: object, stream: Float[Tensor, "text pos d_model"]) -> object:
    """What a block is given, for the first text alone; SiteError where that is not the same for all."""
    if isinstance(given, Tensor):
        if given.ndim < 2 or len(given) != len(stream):
            return given
        if given is not stream and (given.shape == stream.shape or not torch.equal(given, given[:1].expand_as(given))):
            raise SiteError(
                "blocks of this model read a text's embedding beside the stream (Zamba), so that none can be run again "
                "above a site: capture, steer and sample it, and fit and attribute another"
            )
        return given[:1]
    return tuple(_of_one(part, stream) for part in given) if isinstance(given, tuple) else given
