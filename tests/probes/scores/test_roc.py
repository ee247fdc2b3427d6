"""AUROC and F1 against scikit-learn's, and intervals against resamples that are carried out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from lab.metrics.bootstrap import percentile_interval, resamples
from probes.scores.label_probes import auroc_interval, best_threshold, f1

WEIGHTS = resamples(5, 200, np.random.default_rng(0))
tokens = st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 4)), min_size=2, max_size=40)


def arrays(drawn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores, labelled, problems = zip(*drawn, strict=True)
    return np.array(scores, dtype=float), np.array(labelled), np.array(problems)


@given(tokens)
def test_auroc_is_sklearns_with_ties_too(drawn):
    scores, labelled, problems = arrays(drawn)
    found = auroc_interval(scores, labelled, problems, WEIGHTS)
    if labelled.all() or not labelled.any():
        assert np.isnan([found.value, found.low, found.high]).all()
        return
    assert found.value == pytest.approx(roc_auc_score(labelled, scores))
    assert found.low <= found.value + 1e-9
    assert found.high >= found.value - 1e-9


def test_an_interval_is_that_of_problems_drawn_again_and_again():
    generator = np.random.default_rng(1)
    problems = generator.integers(0, 5, 200)
    labelled = generator.random(200) < 0.4
    scores = np.round(labelled + generator.normal(size=200) + problems / 3, 1)
    drawn = [roc_auc_score(labelled, scores, sample_weight=np.maximum(draw[problems], 1e-300)) for draw in WEIGHTS]
    found = auroc_interval(scores, labelled, problems, WEIGHTS)
    wanted = percentile_interval(found.value, np.array(drawn), 5, bounds=(0.0, 1.0))
    assert (found.low, found.high, found.stderr) == pytest.approx((wanted.low, wanted.high, wanted.stderr))


@settings(max_examples=25)
@given(tokens)
def test_no_threshold_has_a_larger_f1_than_the_best(drawn):
    scores, labelled, _ = arrays(drawn)
    if not labelled.any():
        return
    found = f1(scores >= best_threshold(scores, labelled), labelled)
    assert found == pytest.approx(max(f1_score(labelled, scores >= level) for level in scores))


def test_f1_by_hand():
    called, labelled = np.array([True, True, False, False]), np.array([True, False, True, True])
    assert f1(called, labelled) == 2 / (2 + 3)
    assert f1(~labelled, labelled) == 0
    assert np.isnan(f1(called, np.zeros(4, dtype=bool)))
