"""capture: the activations of a model at some sites, by plain hooks, in a pass that stops after the last site."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.records.errors import SiteError
from lab.sampling.decoder import left_padded
from probes.capture.site import Site, hook_site


class _Enough(Exception):  # noqa: N818 -- a signal that leaves the network early, never an error
    pass


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
    captured: dict[Site, Tensor] = {}
    ordered = sorted(set(sites), key=lambda site: site.depth)

    to_front = (~mask).long().argsort(dim=1, stable=True)
    positions = torch.arange(mask.shape[1], device=mask.device).expand_as(to_front)
    in_front = torch.equal(to_front, positions)
    back = to_front.argsort(dim=1)[:, :, None]

    def watch(site: Site) -> None:
        def keep(stream: Float[Tensor, "batch pos d_model"]) -> None:
            stream = stream.detach()
            captured[site] = stream.clone() if in_front else stream.gather(1, back.expand_as(stream))
            if site == ordered[-1]:
                raise _Enough

        handles.append(hook_site(model, site, keep))

    handles = []
    try:
        for site in ordered:
            watch(site)
        model.network(input_ids=tokens.gather(1, to_front), position_ids=positions, use_cache=False)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
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
