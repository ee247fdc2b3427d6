"""Tally: how often two codings of the same segments meet, problem by problem, so that problems can be resampled."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

from lab.metrics.bootstrap import Interval, percentile_interval

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
