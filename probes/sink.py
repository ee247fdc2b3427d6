"""require_no_sink: features are not sought where the first token of a text drowns all others."""

from collections.abc import Mapping, Sequence

import torch

from lab.errors import SiteError
from lab.models.load import Model
from lab.models.padding import left_padded
from probes.capture import capture
from probes.site import Site

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
