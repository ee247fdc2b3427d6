"""survey: taxonomies of several sites, sizes and methods, fitted to one store and judged side by side."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from lab.metrics.bootstrap import resamples
from lab.models.load import Model
from lab.records.errors import EstimateError, StorageError
from lab.records.seeds import child_seed, numpy_generator, torch_generator
from probes.capture.site import Site
from probes.storage.store import Store, read_texts, require_model
from probes.tables import CATEGORIES, TAXONOMIES
from probes.taxonomy.judge import Basis, judge
from probes.taxonomy.segments import SEGMENTS, Parts, Rule, SegmentMeans, parts, segment_means, segments
from probes.taxonomy.taxonomy import ClusteringSae, KMeans, Method, Taxonomy, fit

N_EXAMPLES = 5


def categories(taxonomy: Taxonomy, spans: SegmentMeans, parts: Parts) -> list[dict[str, object]]:
    """Rows of `CATEGORIES` without the columns that name the fit, a row for each category, also for an empty one."""
    held_out = spans.segments.filter(parts.judged)
    scores = taxonomy.scores(spans.means[torch.from_numpy(parts.judged)])
    best = scores.max(dim=1)
    coded = held_out.with_columns(category=pl.Series(best.indices.numpy()), score=pl.Series(best.values.numpy()))
    rows: list[dict[str, object]] = []
    for category, name in enumerate(taxonomy.names):
        members = coded.filter(pl.col("category") == category)
        labelled = members["label"].drop_nulls()
        # The most frequent, and of equals the first by name.
        counts = labelled.value_counts().sort(["count", "label"], descending=[True, False])
        nearest = members.sort("score", descending=True, maintain_order=True)["words"].unique(maintain_order=True)
        rows.append(
            {
                "category": category,
                "name": name,
                "share": len(members) / len(held_out),
                "label": counts["label"][0] if len(counts) else None,
                "label_share": counts["count"][0] / len(labelled) if len(counts) else np.nan,
                "examples": nearest.head(N_EXAMPLES).to_list(),
            }
        )
    return rows


def noise(data: SegmentMeans, seed: int) -> SegmentMeans:
    """The same segments with normal vectors of the same mean and covariance in the place of theirs.

    What a taxonomy explains of these it owes to the few directions that vary most, and to no cluster.
    """
    mean = data.means.double().mean(dim=0)
    centred = data.means.double() - mean
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(centred))
    drawn = torch.randn(centred.shape, generator=torch_generator(seed, "noise", str(data.site)), dtype=torch.float64)
    return replace(data, means=(drawn * variances.clamp_min(0).sqrt() @ directions.T + mean).float())


def last_token(segments: pl.DataFrame) -> pl.DataFrame:
    """`SEGMENTS` rows, each read at its last token alone, where all of it has been read; words and labels stay."""
    return _at(segments, segments["last"])


def any_token(segments: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The same at one of its tokens, drawn at random: over many segments, what reading at every token gives."""
    first, last = segments["first"].to_numpy(), segments["last"].to_numpy()
    return _at(segments, pl.Series(numpy_generator(seed, "any token").integers(first, last + 1)))


def token_before(segments: pl.DataFrame) -> pl.DataFrame:
    """The same at the token in front of it, where a model decides what to write: all that a router can know.

    Raises StorageError for a segment at the start of its text.
    """
    if n_first := segments.filter(pl.col("first") == 0).height:
        raise StorageError(f"{n_first} segments stand at the start of their text, without a token before: want prompts")
    return _at(segments, segments["first"] - 1)


def _at(segments: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    places = places.cast(pl.Int32)
    return SEGMENTS.checked(segments.with_columns(places.alias("first"), places.alias("last")))


class Survey(NamedTuple):
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
    found = segments(rule, model.tokenizer, read_texts(store))
    cut = parts(found["problem_id"].to_list(), child_seed(seed, "parts"))
    n_held_out = found["problem_id"].filter(cut.judged).n_unique()
    weights = resamples(n_held_out, n_boot, numpy_generator(seed, "problems"))
    readings = {
        "last token": last_token(found),
        "any token": any_token(found, child_seed(seed, "any token")),
        "token before": token_before(found),
    }
    n_fits = 2 * len(sites) * len(sizes) * len(methods) * n_seeds
    taxonomies: dict[str, Taxonomy] = {}
    quality: list[dict[str, object]] = []
    contents: list[dict[str, object]] = []
    on_progress(0, n_fits)
    for site in sites:
        spans = segment_means(store, found, site)
        basis = Basis(
            spans=spans,
            noise=noise(spans, child_seed(seed, "noise")),
            readings={name: segment_means(store, read, site) for name, read in readings.items()},
            parts=cut,
            weights=weights,
            seed=child_seed(seed, "shuffles"),
        )
        for method in methods:
            for size in sizes:
                fits, nulls = (
                    [fit(read, cut, size, method, seed=child_seed(seed, "fit", number)) for number in range(n_seeds)]
                    for read in (basis.spans, basis.noise)
                )
                of_fit = {"site": str(site), "method": method.name, "n_categories": size}
                taxonomies[f"{site}-{method.name}-{size}"] = fits[0].taxonomy
                rows = judge(basis, [one.taxonomy for one in fits], [one.taxonomy for one in nulls])
                quality += [of_fit | {"n_dead": fits[0].n_dead} | row for row in rows]
                contents += [of_fit | row for row in categories(fits[0].taxonomy, basis.spans, cut)]
                on_progress(2 * n_seeds, n_fits)
    return Survey(taxonomies, TAXONOMIES.frame(quality), CATEGORIES.frame(contents))
