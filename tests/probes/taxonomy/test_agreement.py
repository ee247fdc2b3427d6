"""Measures of agreement are those of scikit-learn, and do not depend on how categories are numbered."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, f1_score, normalized_mutual_info_score

from lab.metrics.bootstrap import resamples
from probes.taxonomy.judge import adjusted_rand, key, macro_f1, mutual_information, purity, sameness, tally

codes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=40)


def table(rows, columns, shape=(4, 3)) -> np.ndarray:
    return tally(np.zeros(len(rows), dtype=np.int64), np.array(rows), np.array(columns), (1, *shape)).total


@settings(max_examples=40)
@given(codes)
def test_measures_without_a_key_are_those_of_scikit_learn(pairs):
    rows, columns = zip(*pairs, strict=True)
    counts = table(rows, columns)[None]
    if len(set(rows)) > 1 or len(set(columns)) > 1:
        assert mutual_information(counts)[0] == pytest.approx(normalized_mutual_info_score(rows, columns), abs=1e-9)
    else:
        assert np.isnan(mutual_information(counts)[0])
    ours, theirs = adjusted_rand(counts)[0], adjusted_rand_score(rows, columns)
    # Where nothing could differ, scikit-learn says 1.
    assert ours == pytest.approx(theirs, abs=1e-9) or (np.isnan(ours) and theirs == 1)


@settings(max_examples=40)
@given(codes)
def test_macro_f1_is_that_of_scikit_learn_when_partners_predict(pairs):
    rows, columns = map(np.array, zip(*pairs, strict=True))
    counts = table(rows, columns)
    fixed = key(counts)
    meaning = {category: label for label, category in enumerate(fixed.partner) if category >= 0}
    predicted = [meaning.get(row, -1) for row in rows]
    wanted = f1_score(columns, predicted, labels=np.unique(columns), average="macro", zero_division=0)
    assert macro_f1(counts[None], fixed)[0] == pytest.approx(wanted)


@settings(max_examples=40)
@given(codes, st.permutations(range(4)))
def test_the_numbers_of_categories_do_not_matter(pairs, order):
    rows, columns = zip(*pairs, strict=True)
    counts, renamed = table(rows, columns), table([order[row] for row in rows], columns)
    measures = (mutual_information, adjusted_rand)
    values = [[m(c[None])[0] for m in measures] + [purity(c[None], key(c))[0]] for c in (counts, renamed)]
    assert values[0] == pytest.approx(values[1], nan_ok=True)


def test_purity_and_f1_by_hand():
    learned = np.array([[8.0, 1.0], [1.0, 0.0], [0.0, 5.0]])
    fixed = key(learned)
    assert fixed.majority.tolist() == [0, 0, 1]
    assert fixed.partner.tolist() == [0, 2]
    here = np.array([[3.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    assert purity(here[None], fixed)[0] == pytest.approx(8 / 10)
    # Label 0: 3 of 4 and of 6; label 1: 3 of 4 and of 4.
    assert macro_f1(here[None], fixed)[0] == pytest.approx((2 * 3 / 10 + 2 * 3 / 8) / 2)


def test_a_label_without_a_partner_counts_as_missed_and_an_absent_one_not_at_all():
    counts = np.array([[4.0, 0.0, 2.0]])
    fixed = key(counts)
    assert fixed.partner.tolist() == [0, -1, -1]
    assert macro_f1(counts[None], fixed)[0] == pytest.approx((2 * 4 / 10 + 0) / 2)


def test_sameness_is_the_share_on_the_diagonal():
    assert sameness(np.array([[[3.0, 1.0], [2.0, 4.0]]]))[0] == pytest.approx(0.7)


def test_independent_codes_agree_by_chance_only_and_equal_ones_wholly():
    draw = np.random.default_rng(0)
    one, other = draw.integers(0, 4, 4000), draw.integers(0, 4, 4000)
    apart, same = table(one, other, (4, 4))[None], table(one, one, (4, 4))[None]
    assert mutual_information(apart)[0] < 0.01
    assert abs(adjusted_rand(apart)[0]) < 0.01
    assert mutual_information(same)[0] == adjusted_rand(same)[0] == pytest.approx(1)


def test_nothing_counted_is_undefined():
    empty = np.zeros((1, 3, 3))
    fixed = key(np.eye(3))
    values = [mutual_information(empty), adjusted_rand(empty), sameness(empty), purity(empty, fixed)]
    assert all(np.isnan(value[0]) for value in [*values, macro_f1(empty, fixed)])


def test_a_tally_resamples_whole_problems():
    # Two problems agree wholly, two not at all: a resample's sameness is the share of the former in it.
    problems, rows = np.repeat(np.arange(4), 5), np.zeros(20, dtype=np.int64)
    columns = np.repeat([0, 0, 1, 1], 5)
    counted = tally(problems, rows, columns, (4, 2, 2))
    weights = resamples(4, 500, np.random.default_rng(0))
    found = counted.interval(sameness, weights, (0.0, 1.0))
    assert (int(counted.counts.sum()), counted.n_problems, found.value) == (20, 4, 0.5)
    assert (found.low, found.high) == (0.0, 1.0)
    shares = sameness(np.tensordot(weights.astype(float), counted.counts, axes=1))
    np.testing.assert_allclose(shares, weights[:, :2].sum(axis=1) / 4)
