import numpy as np
import pytest

from lab.metrics.accuracy import accuracy, accuracy_by_family, problem_accuracies
from lab.metrics.bootstrap import mean_interval, resamples
from lab.records.errors import EstimateError

VERDICTS = np.array([[True, False, False, False], [True, True, False, False], [True, True, True, True]])


def weights(n=3):
    return resamples(n, 500, np.random.default_rng(0))


def test_accuracy_is_the_mean_of_the_problems_shares():
    np.testing.assert_array_equal(problem_accuracies(VERDICTS), [0.25, 0.5, 1.0])
    assert accuracy(VERDICTS, weights()).value == pytest.approx(1.75 / 3)


def test_the_order_of_samples_changes_nothing():
    assert accuracy(VERDICTS[:, ::-1], weights()) == accuracy(VERDICTS, weights())


def test_families_are_broken_down_on_the_same_resamples():
    generator = np.random.default_rng(1)
    verdicts = generator.random((60, 4)) < 0.5
    families = ["long" if index % 3 else "short" for index in range(60)]
    drawn = weights(60)
    by_family = accuracy_by_family(verdicts, families, drawn)
    assert list(by_family) == ["long", "short"]
    long = np.array([family == "long" for family in families])
    assert by_family["long"].value == pytest.approx(verdicts[long].mean())
    assert by_family["short"] == mean_interval(verdicts[~long].mean(axis=1), drawn[:, ~long])
    whole = accuracy(verdicts, drawn)
    assert by_family["short"].stderr > whole.stderr


def test_a_family_of_one_problem_has_no_interval():
    interval = accuracy_by_family(VERDICTS, ["a", "b", "b"], weights())["a"]
    assert interval.value == 0.25
    assert np.isnan([interval.low, interval.high, interval.stderr]).all()


def test_a_tiny_family_gets_a_wide_interval():
    generator = np.random.default_rng(2)
    verdicts = generator.random((100, 2)) < 0.5
    verdicts[:2] = [[True, False], [True, True]]
    interval = accuracy_by_family(verdicts, ["rare"] * 2 + ["usual"] * 98, weights(100))["rare"]
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_no_samples_or_unpaired_families_are_errors():
    with pytest.raises(EstimateError, match="no samples"):
        problem_accuracies(np.zeros((3, 0), dtype=bool))
    with pytest.raises(EstimateError, match="2 families"):
        accuracy_by_family(VERDICTS, ["a", "b"], weights())
