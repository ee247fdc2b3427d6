"""judge: how good a taxonomy is, on segments of problems that its fit did not see, by exact rules only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Bool, Int

from lab.metrics.bootstrap import Interval, percentile_interval, resampled_means
from lab.seeds import numpy_generator
from probes.taxonomy.agreement import adjusted_rand, key, macro_f1, mutual_information, purity, sameness
from probes.taxonomy.parts import Parts
from probes.taxonomy.segment_means import SegmentMeans
from probes.taxonomy.tally import Measure, Tally, tally
from probes.taxonomy.taxonomy import Taxonomy, normalised

N_SHUFFLES = 20
"""What chance gives is the mean of so many."""
SPANS = "span mean"
UNKNOWN = Interval(value=np.nan, low=np.nan, high=np.nan, stderr=np.nan)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the taxonomies of one site are judged on."""

    spans: SegmentMeans
    """All segments, as the fits read them."""
    noise: SegmentMeans
    """Their null."""
    readings: Mapping[str, SegmentMeans]
    """Name -> the same segments, read at other tokens."""
    parts: Parts
    weights: Int[np.ndarray, "boot problem"]
    """Resamples of the held-out problems."""
    seed: int
    """Of what is shuffled."""

    @property
    def problems(self) -> Int[np.ndarray, " segment"]:
        """Number of the problem of each held-out segment."""
        return self.spans.segments["problem_id"].filter(self.parts.judged).rank("dense").to_numpy().astype(np.int64) - 1

    @property
    def labels(self) -> Int[np.ndarray, " segment"]:
        """Number of the label of each segment; -1 where there is none."""
        return self.spans.segments["label"].rank("dense").fill_null(0).to_numpy().astype(np.int64) - 1


def judge(evidence: Evidence, fits: Sequence[Taxonomy], nulls: Sequence[Taxonomy]) -> list[dict[str, object]]:
    """The measures of the first of `fits`: rows of `TAXONOMIES` without the columns that name the fit.

    `fits` differ in their seeds alone, and their stability is the mean adjusted Rand index of any two; `nulls` are the
    same fits of the noise. Their explained variance and stability are those on noise; in all else they read the very
    segments. What label a category stands for is decided on the segments of the fit. NaN, and a note, for agreement
    with labels where there are none.
    """
    rows = [_explained(evidence, fits[0], nulls[0]), _stability(evidence, fits, nulls)]
    for name, read in {SPANS: evidence.spans, **evidence.readings}.items():
        rows += _labels(evidence, fits[0], nulls[0], name, read)
    return rows + [_sameness(evidence, fits[0], nulls[0], name, read) for name, read in evidence.readings.items()]


def categories_of(
    taxonomy: Taxonomy, read: SegmentMeans, chosen: Bool[np.ndarray, " segment"]
) -> Int[np.ndarray, " chosen"]:
    """Number of the category of each segment that is `chosen`."""
    return taxonomy.category(read.means[torch.from_numpy(chosen)]).numpy()


def _explained(evidence: Evidence, taxonomy: Taxonomy, null: Taxonomy) -> dict[str, object]:
    """1 - FVU: squared error over squared distance from the held-out mean, of centred and normalised segments."""
    n_problems, n_segments = evidence.weights.shape[1], len(evidence.problems)
    held_out = torch.from_numpy(evidence.parts.judged)

    def shares(taxonomy: Taxonomy, weights: Int[np.ndarray, "boot problem"], stream: SegmentMeans) -> np.ndarray:
        units = normalised(stream.means[held_out], taxonomy.mean).double().numpy()
        errors = taxonomy.squared_errors(stream.means[held_out]).double().numpy()
        sums = np.zeros((n_problems, units.shape[1] + 3))
        np.add.at(sums, evidence.problems, np.c_[units, (units**2).sum(axis=1), errors, np.ones(len(units))])
        drawn = weights @ sums
        about_mean = drawn[:, -3] - (drawn[:, :-3] ** 2).sum(axis=1) / drawn[:, -1]
        return 1 - np.divide(drawn[:, -2], about_mean, out=np.full(len(drawn), np.nan), where=about_mean > 1e-12)

    once = np.ones((1, n_problems), dtype=np.int64)
    value = float(shares(taxonomy, once, evidence.spans)[0])
    interval = percentile_interval(
        value, shares(taxonomy, evidence.weights, evidence.spans), n_problems, bounds=(-np.inf, 1.0)
    )
    chance = float(shares(null, once, evidence.noise)[0])
    return _row("explained variance", SPANS, interval, np.nan, chance, n_segments, n_problems)


def _stability(evidence: Evidence, fits: Sequence[Taxonomy], nulls: Sequence[Taxonomy]) -> dict[str, object]:
    def pairs(fits: Sequence[Taxonomy], read: SegmentMeans) -> list[Tally]:
        coded = [categories_of(fit, read, evidence.parts.judged) for fit in fits]
        n = fits[0].n_categories
        shape = (evidence.weights.shape[1], n, n)
        return [tally(evidence.problems, one, other, shape) for one, other in combinations(coded, 2)]

    def mean(tallies: Sequence[Tally], weights: Int[np.ndarray, "boot problem"]) -> np.ndarray:
        replicates = [adjusted_rand(np.tensordot(weights, pair.counts, axes=1)) for pair in tallies]
        return np.mean(replicates, axis=0) if replicates else np.full(len(weights), np.nan)

    once = np.ones((1, evidence.weights.shape[1]), dtype=np.int64)
    found, of_noise = pairs(fits, evidence.spans), pairs(nulls, evidence.noise)
    interval = percentile_interval(
        float(mean(found, once)[0]), mean(found, evidence.weights), evidence.weights.shape[1], bounds=(-1.0, 1.0)
    )
    note = None if found else "a single seed: stability wants two"
    sizes = (len(evidence.problems), evidence.weights.shape[1])
    return _row("stability", SPANS, interval, np.nan, float(mean(of_noise, once)[0]), *sizes, note)


def _labels(
    evidence: Evidence, taxonomy: Taxonomy, null: Taxonomy, name: str, read: SegmentMeans
) -> list[dict[str, object]]:
    known = evidence.labels >= 0
    learned, tried = evidence.parts.fit & known, evidence.parts.judged & known
    if not learned.any() or not tried.any():
        note = "no exact labels: the rule of the segments gives none"
        names = ("mutual information", "purity", "macro F1")
        return [_row(measure, name, UNKNOWN, np.nan, np.nan, 0, 0, note) for measure in names]
    problems = evidence.problems[known[evidence.parts.judged]]
    n_labels, n_problems = int(evidence.labels.max()) + 1, evidence.weights.shape[1]

    def compared(
        by: Taxonomy, in_fit: Int[np.ndarray, " _learned"], here: Int[np.ndarray, " _tried"]
    ) -> tuple[Tally, dict[str, Measure]]:
        """Categories beside the labels `here`, and the measures whose key is made of the labels `in_fit`."""
        as_fitted = categories_of(by, evidence.spans, learned)
        zeros = np.zeros_like(as_fitted)
        fixed = key(tally(zeros, as_fitted, in_fit, (1, by.n_categories, n_labels)).total)
        shape = (n_problems, by.n_categories, n_labels)
        measures: dict[str, Measure] = {
            "mutual information": mutual_information,
            "purity": partial(purity, key=fixed),
            "macro F1": partial(macro_f1, key=fixed),
        }
        return tally(problems, categories_of(by, read, tried), here, shape), measures

    in_fit, here = evidence.labels[learned], evidence.labels[tried]
    found, measures = compared(taxonomy, in_fit, here)
    of_null, null_measures = compared(null, in_fit, here)
    draw = numpy_generator(evidence.seed, "shuffled labels", name)
    shuffled = [compared(taxonomy, draw.permutation(in_fit), draw.permutation(here)) for _ in range(N_SHUFFLES)]
    return [
        _row(
            measure,
            name,
            found.interval(measures[measure], evidence.weights, (0.0, 1.0)),
            float(np.mean([drawn.value(of_drawn[measure]) for drawn, of_drawn in shuffled])),
            of_null.value(null_measures[measure]),
            found.n_segments,
            found.n_problems,
        )
        for measure in measures
    ]


def _sameness(
    evidence: Evidence, taxonomy: Taxonomy, null: Taxonomy, name: str, read: SegmentMeans
) -> dict[str, object]:
    """How often another reading gives the category that the span's mean gives."""
    n_problems, held_out = evidence.weights.shape[1], evidence.parts.judged

    def both(by: Taxonomy) -> tuple[Int[np.ndarray, " held"], Int[np.ndarray, " held"]]:
        return categories_of(by, evidence.spans, held_out), categories_of(by, read, held_out)

    def counted(spans: Int[np.ndarray, " held"], here: Int[np.ndarray, " held"]) -> Tally:
        return tally(evidence.problems, spans, here, (n_problems, taxonomy.n_categories, taxonomy.n_categories))

    spans, here = both(taxonomy)
    draw = numpy_generator(evidence.seed, "shuffled categories", name)
    shuffled = [counted(spans, draw.permutation(here)).value(sameness) for _ in range(N_SHUFFLES)]
    interval = counted(spans, here).interval(sameness, evidence.weights, (0.0, 1.0))
    of_null = counted(*both(null)).value(sameness)
    return _row("sameness", name, interval, float(np.mean(shuffled)), of_null, len(here), n_problems)


def _row(
    measure: str,
    reading: str,
    interval: Interval,
    shuffled: float,
    null: float,
    n_segments: int,
    n_problems: int,
    note: str | None = None,
) -> dict[str, object]:
    return {
        "measure": measure,
        "reading": reading,
        "value": interval.value,
        "low": interval.low,
        "high": interval.high,
        "shuffled": shuffled,
        "null": null,
        "n_segments": n_segments,
        "n_problems": n_problems,
        "note": note,
    }
