"""placed: routers and acts that fit a pair of models, with their tensors where the models are."""

from dataclasses import replace

from lab.models.load import Model
from lab.models.pair import ModelPair
from probes.capture.site import Site, check_site
from probes.taxonomy.taxonomy import require_fit
from steering.edit import check_fit, edit_sites
from steering.hybrid.intervention import Intervention, Steer, Sweep, table_of
from steering.hybrid.router import BaseProbe, InCategories, Router, require_width
from steering.hybrid.vector_table import PerCategory, VectorTable
from steering.hybrid.watched_decoder import lowest


def placed_router(pair: ModelPair, router: Router) -> Router:
    """`router` on the models' devices; ModelError or SiteError where what it reads a stream by is of another model."""
    match router:
        case BaseProbe(probe=probe):
            require_width(probe, pair.base)
            return BaseProbe(replace(probe, weight=probe.weight.to(pair.base.device)))
        case InCategories(taxonomy=taxonomy):
            require_fit(taxonomy, pair.tuned)
            return replace(router, taxonomy=taxonomy.to(pair.tuned.device))
        case _:
            return router


def placed_act(pair: ModelPair, intervention: Intervention) -> Intervention:
    """`intervention` on the models' devices.

    Raises ModelError for a taxonomy of another model than it is to read, VectorError or ModelError for an edit of
    another width than the base model's, and SiteError for a layer that the models lack.
    """
    match intervention:
        case Steer(table=table) | Sweep(table=table):
            for edit in table.edits:
                check_fit(pair.base, edit)
                for site in edit_sites(edit):
                    check_site(pair.base, site)
            return replace(intervention, table=_placed_table(pair, table))
        case _:
            return intervention


def _placed_table(pair: ModelPair, table: VectorTable) -> VectorTable:
    if not isinstance(table, PerCategory):
        return table
    model: Model = pair.tuned if table.reader == "tuned" else pair.base
    require_fit(table.taxonomy, model)
    return replace(table, taxonomy=table.taxonomy.to(model.device))


def start(table: VectorTable) -> Site:
    """The lowest site of all edits of a table: whatever is steered is computed from there up."""
    return lowest([site for edit in table.edits for site in edit_sites(edit)])


def base_sites(router: Router, intervention: Intervention) -> dict[Site, int | None]:
    """Site of the base model -> how many of the last positions are read there; None is all of them."""
    wanted: list[tuple[Site, int | None]] = []
    if isinstance(router, BaseProbe):
        wanted.append((router.probe.site, 1))
    table = table_of(intervention)
    if table is not None:
        windows = intervention.windows if isinstance(intervention, Sweep) else (1,)
        wanted += [(start(table), window) for window in windows]
    if isinstance(table, PerCategory) and table.reader == "base":
        wanted.append((table.taxonomy.site, 1))
    return _widest(wanted)


def tuned_sites(router: Router, intervention: Intervention) -> dict[Site, int | None]:
    """The same of the tuned model, of which only the last position is read."""
    wanted: list[tuple[Site, int | None]] = []
    if isinstance(router, InCategories):
        wanted.append((router.taxonomy.site, 1))
    table = table_of(intervention)
    if isinstance(table, PerCategory) and table.reader == "tuned":
        wanted.append((table.taxonomy.site, 1))
    return _widest(wanted)


def _widest(wanted: list[tuple[Site, int | None]]) -> dict[Site, int | None]:
    found: dict[Site, int | None] = {}
    for site, n in wanted:
        earlier = found.get(site, 0)
        found[site] = None if n is None or earlier is None else max(n, earlier)
    return found
