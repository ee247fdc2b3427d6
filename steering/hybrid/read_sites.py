"""read_sites: where a hybrid reads the streams of its models, and how far back."""

from probes.site import Site
from steering.edit import edit_sites
from steering.hybrid.above import lowest
from steering.hybrid.act import Act, Sweep, table_of
from steering.hybrid.router import BaseProbe, InCategories, Router
from steering.hybrid.vector_table import PerCategory, VectorTable


def start(table: VectorTable) -> Site:
    """The lowest site of all edits of a table: whatever is steered is computed from there up."""
    return lowest([site for edit in table.edits for site in edit_sites(edit)])


def base_sites(router: Router, act: Act) -> dict[Site, int | None]:
    """Site of the base model -> how many of the last positions are read there; None is all of them."""
    wanted: list[tuple[Site, int | None]] = []
    if isinstance(router, BaseProbe):
        wanted.append((router.probe.site, 1))
    table = table_of(act)
    if table is not None:
        windows = act.windows if isinstance(act, Sweep) else (1,)
        wanted += [(start(table), window) for window in windows]
    if isinstance(table, PerCategory) and table.reader == "base":
        wanted.append((table.taxonomy.site, 1))
    return _widest(wanted)


def tuned_sites(router: Router, act: Act) -> dict[Site, int | None]:
    """The same of the tuned model, of which only the last position is read."""
    wanted: list[tuple[Site, int | None]] = []
    if isinstance(router, InCategories):
        wanted.append((router.taxonomy.site, 1))
    table = table_of(act)
    if isinstance(table, PerCategory) and table.reader == "tuned":
        wanted.append((table.taxonomy.site, 1))
    return _widest(wanted)


def _widest(wanted: list[tuple[Site, int | None]]) -> dict[Site, int | None]:
    found: dict[Site, int | None] = {}
    for site, n in wanted:
        earlier = found.get(site, 0)
        found[site] = None if n is None or earlier is None else max(n, earlier)
    return found
