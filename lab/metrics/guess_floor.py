"""The guess floor: the accuracy an arm would have if its answers had nothing to do with the problems."""

import operator
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int

from lab.metrics.bootstrap import Interval, percentile_interval
from lab.records.errors import EstimateError


def guess_floor(
    answers: Sequence[Sequence[str | None]],
    golds: Sequence[str],
    weights: Int[np.ndarray, "boot _problem"],
    *,
    same: Callable[[str, str], bool] = operator.eq,
) -> Interval:
    """Expected accuracy when answers are shuffled among problems, none keeping its own: in [0, 1].

    `answers[i]` are the extracted answers of problem i's samples (None where none could be read: never right),
    `golds[j]` its gold answer, `same(answer, gold)` the task's answer equality (plain string equality unless given).
    With M[i, j] = share of problem i's samples equal to gold j, the value is the mean of M over all pairs i != j: the
    exact expectation over permutations without fixed points, with no shuffling noise; problems count the same.
    It needs golds that differ: where all are equal, guessing and solving cannot be told apart.

    The value is a U-statistic of order two. The interval resamples problems as everywhere else and weighs pair (i, j)
    by w_i w_j, i != j: copies of one problem in a resample are never paired, or true accuracy would leak in. If
    answers and golds are both uniform the statistic is degenerate and this interval is too wide, never too narrow.
    """
    matches = match_shares(answers, golds, same=same)
    n_problems = len(golds)
    if n_problems < 2:
        raise EstimateError(
            "the guess floor compares answers with the golds of other problems: give at least two problems"
        )
    if weights.shape[1] != n_problems:
        raise EstimateError(
            f"{n_problems} problems came with weights for {weights.shape[1]}: "
            "make the weights with resamples(n_problems, ...) for the same problems in the same order"
        )
    np.fill_diagonal(matches, 0.0)
    value = float(matches.sum()) / (n_problems * (n_problems - 1))
    drawn = weights.astype(np.float64)
    sums = ((drawn @ matches) * drawn).sum(axis=1)
    pairs = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    replicates = np.divide(sums, pairs, out=np.full(len(drawn), np.nan), where=pairs > 0)
    return percentile_interval(value, replicates, n_problems, bounds=(0.0, 1.0))


def match_shares(
    answers: Sequence[Sequence[str | None]], golds: Sequence[str], *, same: Callable[[str, str], bool] = operator.eq
) -> Float[np.ndarray, "problem problem"]:
    """M[i, j]: the share of problem i's samples whose answer equals problem j's gold; the diagonal is the accuracy."""
    if len(answers) != len(golds):
        raise EstimateError(f"answers of {len(answers)} problems came with {len(golds)} golds: give one gold a problem")
    if empty := [index for index, given in enumerate(answers) if not given]:
        raise EstimateError(
            f"problem {empty[0]} has no samples: give at least one answer (None if unreadable) a problem"
        )
    texts = sorted({text for given in answers for text in given if text is not None})
    gold_texts = sorted(set(golds))
    equal = np.array([[same(text, gold) for gold in gold_texts] for text in texts], dtype=np.float64)
    equal = equal.reshape(len(texts), len(gold_texts))
    row = {text: index for index, text in enumerate(texts)}
    shares = np.zeros((len(answers), len(texts)))
    for index, given in enumerate(answers):
        for text in given:
            if text is not None:
                shares[index, row[text]] += 1 / len(given)
    column = {gold: index for index, gold in enumerate(gold_texts)}
    return (shares @ equal)[:, [column[gold] for gold in golds]]
