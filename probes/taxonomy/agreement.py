"""agreement: how well categories match labels, from counts of both; every measure is one number a table of counts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from scipy.special import xlogy

from lab.metrics.bootstrap import Interval, percentile_interval


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
    joint = _shares(counts)
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


def _shares(counts: Float[np.ndarray, "table category label"]) -> Float[np.ndarray, "table category label"]:
    return counts / np.maximum(counts.sum(axis=(1, 2), keepdims=True), 1e-300)


def _entropy(shares: Float[np.ndarray, "table cell"]) -> Float[np.ndarray, " table"]:
    return -xlogy(shares, shares).sum(axis=1)


def _pairs(counts: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return counts * (counts - 1) / 2


def _ratio(over: Float[np.ndarray, " table"], under: Float[np.ndarray, " table"]) -> Float[np.ndarray, " table"]:
    """NaN where `under` is 0 up to rounding."""
    return np.divide(over, under, out=np.full(len(over), np.nan), where=np.abs(under) > 1e-12)


Measure: TypeAlias = Callable[[Float[np.ndarray, "table row column"]], Float[np.ndarray, " table"]]
"""One number for each table of counts."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts of segments by problem, by a first and by a second coding."""

    counts: Float[np.ndarray, "problem row column"]

    @property
    def total(self) -> Float[np.ndarray, "row column"]:
        """All problems together."""
        return self.counts.sum(axis=0)

    @property
    def n_segments(self) -> int:
        """How many segments were counted."""
        return int(self.counts.sum())

    @property
    def n_problems(self) -> int:
        """How many problems have one of them."""
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
