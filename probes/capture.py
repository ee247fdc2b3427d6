"""capture: the activations of a model at some sites, by plain hooks, in a pass that stops after the last site."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.errors import SiteError
from lab.models.load import Model
from lab.models.padding import token_positions
from probes.site import Site, hook_site


class _Enough(Exception):  # noqa: N818 -- a signal that leaves the network early, never an error
    pass


@torch.no_grad()
def capture(
    model: Model, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"], sites: Sequence[Site]
) -> dict[Site, Float[Tensor, "batch pos d_model"]]:
    """Site -> activations in the model's dtype, on its device; entries where `mask` is False mean nothing.

    Padding may stand on either side, since positions are counted from the mask. The logits are unchanged by being
    watched, and blocks above the last site are not run. Raises SiteError for a layer out of range, for no site at all,
    or where a hook did not fire.
    """
    if not sites:
        raise SiteError("capture was given no site: want at least one, such as Site(0)")
    captured: dict[Site, Tensor] = {}
    # By layer, and the input of a block before its output: the order in which the pass reaches them.
    ordered = sorted(set(sites), key=lambda site: (site.layer, site.stream == "resid_post"))

    def watch(site: Site) -> None:
        def keep(stream: Float[Tensor, "batch pos d_model"]) -> None:
            captured[site] = stream.detach().clone()
            if site == ordered[-1]:
                raise _Enough

        handles.append(hook_site(model, site, keep))

    handles = []
    try:
        for site in ordered:
            watch(site)
        model.network(input_ids=tokens, attention_mask=mask.long(), position_ids=token_positions(mask), use_cache=False)
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
