"""capture: the activations of a model at some sites, by plain hooks, in a pass that stops after the last site."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.errors import SiteError
from lab.models.load import Model
from probes.site import Site, hook_site


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
