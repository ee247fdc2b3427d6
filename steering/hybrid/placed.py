"""placed: routers and acts that fit a pair of models, with their tensors where the models are."""

from dataclasses import replace

from lab.models.load import Model
from lab.models.pair import ModelPair
from probes.site import check_site
from probes.taxonomy.taxonomy import require_fit
from steering.edit import check_fit, edit_sites
from steering.hybrid.act import Act, Steer, Sweep
from steering.hybrid.linear_probe import require_width
from steering.hybrid.router import BaseProbe, InCategories, Router
from steering.hybrid.vector_table import PerCategory, VectorTable


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


def placed_act(pair: ModelPair, act: Act) -> Act:
    """`act` on the models' devices.

    Raises ModelError for a taxonomy of another model than it is to read, VectorError or ModelError for an edit of
    another width than the base model's, and SiteError for a layer that the models lack.
    """
    match act:
        case Steer(table=table) | Sweep(table=table):
            for edit in table.edits:
                check_fit(pair.base, edit)
                for site in edit_sites(edit):
                    check_site(pair.base, site)
            return replace(act, table=_placed_table(pair, table))
        case _:
            return act


def _placed_table(pair: ModelPair, table: VectorTable) -> VectorTable:
    if not isinstance(table, PerCategory):
        return table
    model: Model = pair.tuned if table.reader == "tuned" else pair.base
    require_fit(table.taxonomy, model)
    return replace(table, taxonomy=table.taxonomy.to(model.device))
