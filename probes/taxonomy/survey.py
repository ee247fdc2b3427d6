"""survey: taxonomies of several sites, sizes and methods, fitted to one store and judged side by side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Int

from lab.errors import EstimateError
from lab.feature_tables import CATEGORIES, TAXONOMIES
from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.seeds import child_seed, numpy_generator
from lab.tables import read_table
from probes.site import Site
from probes.storage.store import TEXTS_FILE, Store, require_model
from probes.taxonomy.categories import categories
from probes.taxonomy.fit import ClusteringSae, KMeans, Method, fit
from probes.taxonomy.judge import Basis, judge
from probes.taxonomy.noise import noise
from probes.taxonomy.parts import Parts, parts
from probes.taxonomy.reading import AnyToken, LastToken, Reading, TokenBefore, spans_read
from probes.taxonomy.segment_means import segment_means
from probes.taxonomy.segments import Rule, segments
from probes.taxonomy.taxonomy import Taxonomy
from probes.texts import TEXTS


class Survey(NamedTuple):
    """What came of a survey."""

    taxonomies: dict[str, Taxonomy]
    """By a name that says site, method and size: those of the first seed."""
    quality: pl.DataFrame
    """`TAXONOMIES` rows."""
    contents: pl.DataFrame
    """`CATEGORIES` rows."""


def survey(
    model: Model,
    store: Store,
    rule: Rule,
    sites: Sequence[Site],
    sizes: Sequence[int],
    methods: Sequence[Method] = (ClusteringSae(), KMeans()),
    *,
    n_seeds: int = 3,
    n_boot: int = 2000,
    seed: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Survey:
    """All `methods` at all `sizes` and `sites`, each fitted `n_seeds` times to segments and to noise like them.

    `store` must hold all tokens of its texts as `model` reads them; `rule` cuts these into segments. The first of each
    `n_seeds` fits is the one that is kept and judged. `on_progress` is told the fits just made and those in all.

    Holds five vectors a segment, whatever the number of tokens. Raises StorageError for a store of another model or one
    that lacks tokens, and EstimateError for nothing to fit, or where there are too few problems or segments.
    """
    require_model(store, model)
    if n_seeds < 1 or not (sites and sizes and methods):
        raise EstimateError(
            f"{len(sites)} sites, {len(sizes)} sizes, {len(methods)} methods, {n_seeds} fits of each: want at least 1 "
            "of all"
        )
    found = segments(rule, model.tokenizer, read_table(store.path / TEXTS_FILE, TEXTS))
    cut = parts(found["problem_id"].to_list(), child_seed(seed, "parts"))
    n_held_out = found["problem_id"].filter(cut.judged).n_unique()
    weights = resamples(n_held_out, n_boot, numpy_generator(seed, "problems"))
    n_fits = 2 * len(sites) * len(sizes) * len(methods) * n_seeds
    taxonomies: dict[str, Taxonomy] = {}
    quality: list[dict[str, object]] = []
    contents: list[dict[str, object]] = []
    on_progress(0, n_fits)
    for site in sites:
        basis = _basis(store, found, site, cut, weights, seed)
        for method in methods:
            for size in sizes:
                fits, nulls = (
                    [fit(read, cut, size, method, seed=child_seed(seed, "fit", number)) for number in range(n_seeds)]
                    for read in (basis.spans, basis.noise)
                )
                of_fit = {"site": str(site), "method": method_name(method), "n_categories": size}
                taxonomies[f"{site}-{method_name(method)}-{size}"] = fits[0].taxonomy
                rows = judge(basis, [one.taxonomy for one in fits], [one.taxonomy for one in nulls])
                quality += [of_fit | {"n_dead": fits[0].n_dead} | row for row in rows]
                contents += [of_fit | row for row in categories(fits[0].taxonomy, basis.spans, cut)]
                on_progress(2 * n_seeds, n_fits)
    return Survey(taxonomies, TAXONOMIES.frame(quality), CATEGORIES.frame(contents))


def method_name(method: Method) -> str:
    """`k-means`, or `sae-k3` with the SAE's own k."""
    match method:
        case KMeans():
            return "k-means"
        case ClusteringSae(k=k):
            return f"sae-k{k}"


def _basis(
    store: Store, found: pl.DataFrame, site: Site, cut: Parts, weights: Int[np.ndarray, "boot problem"], seed: int
) -> Basis:
    spans = segment_means(store, found, site)
    readings: dict[str, Reading] = {
        "last token": LastToken(),
        "any token": AnyToken(child_seed(seed, "any token")),
        "token before": TokenBefore(),
    }
    return Basis(
        spans=spans,
        noise=noise(spans, child_seed(seed, "noise")),
        readings={name: segment_means(store, spans_read(reading, found), site) for name, reading in readings.items()},
        parts=cut,
        weights=weights,
        seed=child_seed(seed, "shuffles"),
    )
