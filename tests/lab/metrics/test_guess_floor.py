import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.metrics.accuracy import guess_floor, match_shares
from lab.metrics.bootstrap import resamples
from lab.records.errors import EstimateError

digits = st.sampled_from(["0", "1", "2", None])


def weights(n, n_boot=300):
    return resamples(n, n_boot, np.random.default_rng(0))


def test_hand_arithmetic():
    answers = [["1", "2"], ["1", None], ["3", "3"]]
    golds = ["1", "2", "1"]
    # row 1: "2" meets gold 2, "1" meets gold 3 -> 1/2, 1/2; row 2: "1" meets golds 1 and 3 -> 1/2, 1/2; row 3: nothing
    np.testing.assert_allclose(match_shares(answers, golds), [[0.5, 0.5, 0.5], [0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    assert guess_floor(answers, golds, weights(3)).value == pytest.approx((0.5 + 0.5 + 0.5 + 0.5) / 6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.lists(digits, min_size=1, max_size=3), st.sampled_from("012")), min_size=2, max_size=6))
def test_it_is_the_mean_over_all_pairs_of_different_problems(rows):
    answers, golds = [row[0] for row in rows], [row[1] for row in rows]
    n = len(rows)
    pairs = [np.mean([answer == golds[j] for answer in answers[i]]) for i in range(n) for j in range(n) if i != j]
    drawn = weights(n)
    floor = guess_floor(answers, golds, drawn)
    assert floor.value == pytest.approx(np.mean(pairs))
    order = np.random.default_rng(1).permutation(n)
    renamed = guess_floor([answers[i][::-1] for i in order], [golds[i] for i in order], drawn[:, order])
    assert (renamed.value, renamed.low, renamed.high) == pytest.approx((floor.value, floor.low, floor.high))


def test_knowing_the_answers_does_not_raise_the_floor():
    generator = np.random.default_rng(2)
    golds = [str(digit) for digit in generator.integers(10, size=300)]
    perfect = guess_floor([[gold] for gold in golds], golds, weights(300))
    blind = guess_floor([[str(generator.integers(10))] for _ in golds], golds, weights(300))
    assert perfect.value == pytest.approx(0.1, abs=0.01)
    assert blind.value == pytest.approx(0.1, abs=0.01)


def test_a_favourite_answer_earns_its_frequency():
    golds = ["7"] * 30 + ["1"] * 70
    floor = guess_floor([["7"]] * 100, golds, weights(100))
    assert floor.value == pytest.approx((30 * 29 + 70 * 30) / (100 * 99))
    assert floor.low < 0.25 < 0.35 < floor.high


def test_the_interval_covers_the_floor_of_a_skilled_guesser():
    chances = np.array([0.5, 0.3, 0.2])
    generator = np.random.default_rng(3)
    drawn = weights(50)
    hits = 0
    for _ in range(200):
        golds = generator.choice(3, p=chances, size=50)
        knows = generator.random(50) < 0.7
        given_answers = np.where(knows, golds, generator.choice(3, p=chances, size=50))
        floor = guess_floor([[str(answer)] for answer in given_answers], [str(gold) for gold in golds], drawn)
        hits += floor.low <= float(chances @ chances) <= floor.high
    assert hits / 200 >= 0.91


def test_a_task_may_bring_its_own_equality():
    floor = guess_floor(
        [["1.0"], ["2"]], ["2", "1"], weights(2), same=lambda answer, gold: float(answer) == float(gold)
    )
    assert floor.value == 1.0


def test_a_floor_of_zero_is_no_certainty():
    floor = guess_floor([[None], ["x"], ["y"]] * 10, ["1", "2", "3"] * 10, weights(30))
    assert floor.value == 0
    assert floor.low == 0
    assert floor.high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_what_cannot_be_shuffled_is_an_error():
    with pytest.raises(EstimateError, match="at least two"):
        guess_floor([["1"]], ["1"], weights(1))
    with pytest.raises(EstimateError, match="2 golds"):
        guess_floor([["1"]], ["1", "2"], weights(2))
    with pytest.raises(EstimateError, match="problem 1 has no samples"):
        guess_floor([["1"], []], ["1", "2"], weights(2))
    with pytest.raises(EstimateError, match="weights for 3"):
        guess_floor([["1"], ["2"]], ["1", "2"], weights(3))
