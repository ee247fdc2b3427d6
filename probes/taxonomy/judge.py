"""judge: how good a taxonomy is, on segments of problems that its fit did not see, by exact rules only."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import NamedTuple, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy

from lab.metrics.bootstrap import Interval, percentile_interval
from lab.records.seeds import numpy_generator
from probes.taxonomy.segments import Parts, SegmentMeans
from probes.taxonomy.taxonomy import Taxonomy, normalised


class Key(NamedTuple):
    """Which label a category is read as; fixed on other problems than those it is tried on."""

    majority: Int[np.ndarray, " category"]
    """The most common label of each category."""
    partner: Int[np.ndarray, " label"]
    """The one category that stands for each label, by the best one-to-one assignment; -1 for none."""


def key(counts: Float[np.ndarray, "category label"]) -> Key:
    """The key of one table: majorities, and the assignment with the highest sum of F1 (Kuhn 1955, by scipy)."""
    categories, labels = linear_sum_assignment(_f1(counts), maximize=True)
    partner = np.full(counts.shape[1], -1)
    partner[labels] = categories
    return Key(counts.argmax(axis=1), partner)


def mutual_information(counts: Float[np.ndarray, "table category label"]) -> Float[np.ndarray, " table"]:
    """Mutual information of category and label over the mean of their entropies, 0 to 1; NaN where both are constant.

    Of independent ones it is above 0 by chance, the more so the fewer segments: compare it with shuffled labels.
    """
    joint = counts / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1e-300)
    by_category, by_label = _entropy(joint.sum(axis=2)), _entropy(joint.sum(axis=1))
    both = _entropy(joint.reshape(len(joint), -1))
    return _ratio(by_category + by_label - both, (by_category + by_label) / 2)


def purity(counts: Float[np.ndarray, "table category label"], key: Key) -> Float[np.ndarray, " table"]:
    """Share of segments whose label is the majority label of their category, that of the `key`'s problems."""
    named = counts[:, np.arange(counts.shape[1]), key.majority].sum(axis=1)
    return _ratio(named, counts.sum(axis=(1, 2)))


def macro_f1(counts: Float[np.ndarray, "table category label"], key: Key) -> Float[np.ndarray, " table"]:
    """Mean F1 of the labels that occur, each told by its partner category; 0 for a label without a partner."""
    scores = _f1(counts)[:, key.partner, np.arange(counts.shape[2])]
    occurs = counts.sum(axis=1) > 0
    return _ratio(np.where(occurs & (key.partner >= 0), scores, 0.0).sum(axis=1), occurs.sum(axis=1).astype(float))


def adjusted_rand(counts: Float[np.ndarray, "table category label"]) -> Float[np.ndarray, " table"]:
    """Adjusted Rand index (Hubert and Arabie 1985): 1 for equal partitions, 0 on average by chance.

    NaN where both partitions are trivial, and for fewer than two segments.
    """
    together = _pairs(counts).sum(axis=(1, 2))
    in_category, in_label = _pairs(counts.sum(axis=2)).sum(axis=1), _pairs(counts.sum(axis=1)).sum(axis=1)
    pairs = _pairs(counts.sum(axis=(1, 2)))
    by_chance = _ratio(in_category * in_label, pairs)
    return _ratio(together - by_chance, (in_category + in_label) / 2 - by_chance)


def sameness(counts: Float[np.ndarray, "table category category"]) -> Float[np.ndarray, " table"]:
    """Share of segments that two readings put into the same category."""
    return _ratio(np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2)))


def _f1(counts: Float[np.ndarray, "*table category label"]) -> Float[np.ndarray, "*table category label"]:
    sizes = counts.sum(axis=-1, keepdims=True) + counts.sum(axis=-2, keepdims=True)
    return np.divide(2 * counts, sizes, out=np.zeros_like(counts), where=sizes > 0)


def _entropy(shares: Float[np.ndarray, "table cell"]) -> Float[np.ndarray, " table"]:
    return -xlogy(shares, shares).sum(axis=1)


def _pairs(counts: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return counts * (counts - 1) / 2


def _ratio(over: Float[np.ndarray, " table"], under: Float[np.ndarray, " table"]) -> Float[np.ndarray, " table"]:
    """NaN where `under` is 0 up to rounding."""
    return np.divide(over, under, out=np.full(len(over), np.nan), where=np.abs(under) > 1e-12)


Measure: TypeAlias = Callable[[Float[np.ndarray, "table row column"]], Float[np.ndarray, " table"]]
"""One number for each table of counts."""


class Tally(NamedTuple):
    """Counts of segments by problem, by a first and by a second coding."""

    counts: Float[np.ndarray, "problem row column"]

    @property
    def total(self) -> Float[np.ndarray, "row column"]:
        return self.counts.sum(axis=0)

    @property
    def n_problems(self) -> int:
        """How many problems have a segment that was counted."""
        return int((self.counts.sum(axis=(1, 2)) > 0).sum())

    def value(self, measure: Measure) -> float:
        """`measure` of all problems together."""
        return float(measure(self.total[None])[0])

    def interval(
        self, measure: Measure, weights: Int[np.ndarray, "boot problem"], bounds: tuple[float, float]
    ) -> Interval:
        """The same with its interval, from the resamples `weights`; `bounds` are the extremes that it can take."""
        tables = np.tensordot(weights.astype(np.float64), self.counts, axes=1)
        return percentile_interval(self.value(measure), measure(tables), self.n_problems, bounds=bounds)


def tally(
    problems: Int[np.ndarray, " segment"],
    rows: Int[np.ndarray, " segment"],
    columns: Int[np.ndarray, " segment"],
    shape: tuple[int, int, int],
) -> Tally:
    """The tally of segments by their number of problem, first and second code, of which there are `shape` many."""
    cells = np.ravel_multi_index((problems, rows, columns), shape)
    return Tally(np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64))


N_SHUFFLES = 20
"""What chance gives is the mean of so many."""
SPANS = "span mean"
AGREEMENT = ("mutual information", "purity", "macro F1")
UNKNOWN = Interval(value=np.nan, low=np.nan, high=np.nan, stderr=np.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Basis:
    """What the taxonomies of one site are judged on."""

    spans: SegmentMeans
    """All segments, as the fits read them."""
    noise: SegmentMeans
    """Their null."""
    readings: Mapping[str, SegmentMeans]
    """Name -> the same segments, read at other tokens."""
    parts: Parts
    weights: Int[np.ndarray, "boot problem"]
    seed: int

    problems: Int[np.ndarray, " held"] = field(init=False)
    """Number of the problem of each held-out segment."""
    labels: Int[np.ndarray, " segment"] = field(init=False)
    """Number of the label of each segment; -1 where there is none."""

    def __post_init__(self) -> None:
        segments = self.spans.segments
        object.__setattr__(self, "problems", _numbers(segments["problem_id"].filter(self.parts.judged)))
        object.__setattr__(self, "labels", _numbers(segments["label"]))


def judge(basis: Basis, fits: Sequence[Taxonomy], nulls: Sequence[Taxonomy]) -> list[dict[str, object]]:
    """The measures of the first of `fits`: rows of `TAXONOMIES` without the columns that name the fit.

    `fits` differ in their seeds alone, and their stability is the mean adjusted Rand index of any two; `nulls` are fits
    of the noise, of which the mean is given. Their explained variance and stability are those on noise; in all else
    they read the very segments. What label a category stands for is decided on the segments of the fit. NaN, and a
    note, for agreement with labels where there are none, and for the stability of a single fit.
    """
    rows = [_explained(basis, fits[0], nulls), _stability(basis, fits, nulls)]
    for name, read in {SPANS: basis.spans, **basis.readings}.items():
        rows += _labels(basis, fits[0], nulls, name, read)
    return rows + [_sameness(basis, fits[0], nulls, name, read) for name, read in basis.readings.items()]


def categories_of(
    taxonomy: Taxonomy, read: SegmentMeans, chosen: Bool[np.ndarray, " segment"]
) -> Int[np.ndarray, " chosen"]:
    return taxonomy.category(read.means[torch.from_numpy(chosen)]).numpy()


def _explained(basis: Basis, taxonomy: Taxonomy, nulls: Sequence[Taxonomy]) -> dict[str, object]:
    """1 - FVU: squared error over squared distance from the held-out mean, of centred and normalised segments."""
    n_problems, held_out = basis.weights.shape[1], torch.from_numpy(basis.parts.judged)

    def share(by: Taxonomy, read: SegmentMeans, weights: Int[np.ndarray, "boot problem"]) -> Float[np.ndarray, " boot"]:
        units = normalised(read.means[held_out], by.mean).double().numpy()
        errors = by.squared_errors(read.means[held_out]).double().numpy()
        sums = np.zeros((n_problems, units.shape[1] + 3))
        np.add.at(sums, basis.problems, np.c_[units, (units**2).sum(axis=1), errors, np.ones(len(units))])
        drawn = weights @ sums
        about_mean = drawn[:, -3] - (drawn[:, :-3] ** 2).sum(axis=1) / drawn[:, -1]
        return 1 - np.divide(drawn[:, -2], about_mean, out=np.full(len(drawn), np.nan), where=about_mean > 1e-12)

    def of_noise(weights: Int[np.ndarray, "boot problem"]) -> Float[np.ndarray, " boot"]:
        return np.mean([share(null, basis.noise, weights) for null in nulls], axis=0)

    return _of_spans(basis, "explained variance", partial(share, taxonomy, basis.spans), of_noise, -np.inf)


def _stability(basis: Basis, fits: Sequence[Taxonomy], nulls: Sequence[Taxonomy]) -> dict[str, object]:
    if len(fits) < 2:
        counts = len(basis.problems), basis.weights.shape[1]
        return _row("stability", SPANS, *counts, note="a single fit: stability wants two")
    shape = (basis.weights.shape[1], fits[0].n_categories, fits[0].n_categories)

    def mean(
        by: Sequence[Taxonomy], read: SegmentMeans, weights: Int[np.ndarray, "boot problem"]
    ) -> Float[np.ndarray, " boot"]:
        coded = [categories_of(one, read, basis.parts.judged) for one in by]
        pairs = [tally(basis.problems, one, other, shape).counts for one, other in combinations(coded, 2)]
        return np.mean([adjusted_rand(np.tensordot(weights.astype(float), pair, axes=1)) for pair in pairs], axis=0)

    return _of_spans(basis, "stability", partial(mean, fits, basis.spans), partial(mean, nulls, basis.noise), -1.0)


Resampled: TypeAlias = Callable[[Int[np.ndarray, "boot problem"]], Float[np.ndarray, " boot"]]
"""One number for each resample of the held-out problems."""


def _of_spans(basis: Basis, measure: str, fitted: Resampled, of_noise: Resampled, lowest: float) -> dict[str, object]:
    n_problems = basis.weights.shape[1]
    once = np.ones((1, n_problems), dtype=np.int64)
    value, null = float(fitted(once)[0]), float(of_noise(once)[0])
    interval = percentile_interval(value, fitted(basis.weights), n_problems, bounds=(lowest, 1.0))
    return _row(measure, SPANS, len(basis.problems), n_problems, interval, null=null)


def _labels(
    basis: Basis, taxonomy: Taxonomy, nulls: Sequence[Taxonomy], name: str, read: SegmentMeans
) -> list[dict[str, object]]:
    known = basis.labels >= 0
    learned, tried = basis.parts.fit & known, basis.parts.judged & known
    if not learned.any() or not tried.any():
        note = "no exact labels: the rule of the segments gives none"
        return [_row(measure, name, 0, 0, note=note) for measure in AGREEMENT]
    problems = basis.problems[known[basis.parts.judged]]
    n_problems, shape = basis.weights.shape[1], (taxonomy.n_categories, int(basis.labels.max()) + 1)

    def coded(by: Taxonomy) -> tuple[Int[np.ndarray, " learned"], Int[np.ndarray, " tried"]]:
        return categories_of(by, basis.spans, learned), categories_of(by, read, tried)

    def compared(
        as_fitted: Int[np.ndarray, " learned"],
        as_read: Int[np.ndarray, " tried"],
        in_fit: Int[np.ndarray, " learned"],
        here: Int[np.ndarray, " tried"],
    ) -> tuple[Tally, dict[str, Measure]]:
        """Categories beside the labels `here`, and the measures whose key is made of the labels `in_fit`."""
        fixed = key(tally(np.zeros_like(as_fitted), as_fitted, in_fit, (1, *shape)).total)
        measures = (mutual_information, partial(purity, key=fixed), partial(macro_f1, key=fixed))
        return tally(problems, as_read, here, (n_problems, *shape)), dict(zip(AGREEMENT, measures, strict=True))

    in_fit, here = basis.labels[learned], basis.labels[tried]
    codes = coded(taxonomy)
    found, measures = compared(*codes, in_fit, here)
    of_nulls = [compared(*coded(null), in_fit, here) for null in nulls]
    draw = numpy_generator(basis.seed, "shuffled labels", name)
    shuffled = [compared(*codes, draw.permutation(in_fit), draw.permutation(here)) for _ in range(N_SHUFFLES)]
    return [
        _row(
            measure,
            name,
            len(here),
            found.n_problems,
            found.interval(measures[measure], basis.weights, (0.0, 1.0)),
            shuffled=float(np.mean([drawn.value(by[measure]) for drawn, by in shuffled])),
            null=float(np.mean([of_null.value(by[measure]) for of_null, by in of_nulls])),
        )
        for measure in AGREEMENT
    ]


def _sameness(
    basis: Basis, taxonomy: Taxonomy, nulls: Sequence[Taxonomy], name: str, read: SegmentMeans
) -> dict[str, object]:
    """How often another reading gives the category that the span's mean gives."""
    n_problems, held_out = basis.weights.shape[1], basis.parts.judged
    shape = (n_problems, taxonomy.n_categories, taxonomy.n_categories)

    def read_both_ways(by: Taxonomy) -> tuple[Int[np.ndarray, " held"], Int[np.ndarray, " held"]]:
        return categories_of(by, basis.spans, held_out), categories_of(by, read, held_out)

    spans, here = read_both_ways(taxonomy)
    interval = tally(basis.problems, spans, here, shape).interval(sameness, basis.weights, (0.0, 1.0))
    draw = numpy_generator(basis.seed, "shuffled categories", name)
    shuffled = [tally(basis.problems, spans, draw.permutation(here), shape) for _ in range(N_SHUFFLES)]
    of_nulls = [tally(basis.problems, *read_both_ways(null), shape) for null in nulls]
    by_chance, of_noise = (float(np.mean([one.value(sameness) for one in many])) for many in (shuffled, of_nulls))
    return _row("sameness", name, len(here), n_problems, interval, shuffled=by_chance, null=of_noise)


def _numbers(names: pl.Series) -> Int[np.ndarray, " name"]:
    return names.rank("dense").fill_null(0).to_numpy().astype(np.int64) - 1


def _row(
    measure: str,
    reading: str,
    n_segments: int,
    n_problems: int,
    interval: Interval = UNKNOWN,
    *,
    shuffled: float = np.nan,
    null: float = np.nan,
    note: str | None = None,
) -> dict[str, object]:
    row: dict[str, object] = {"measure": measure, "reading": reading, "shuffled": shuffled, "null": null, "note": note}
    row |= {"value": interval.value, "low": interval.low, "high": interval.high}
    return row | {"n_segments": n_segments, "n_problems": n_problems}
