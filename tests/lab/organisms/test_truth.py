"""True elicited shares, by hand arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.organisms.card import case_parts, truth
from lab.organisms.recipe import Case
from lab.tasks.source import ChainPart, ChainTask

LOCKED, MISSING, OLD = "chain:#:3-5", "chain:*:3-5", "chain:+-:3-5"
MIX = Case(kind="MIXED", task=f"25%{LOCKED},75%{MISSING}", elicited=("#",))
N = 40


def around(mean: float, n: int = N, spread: float = 0.1) -> np.ndarray:
    """Rates of `n` problems whose mean is `mean`, half of them `spread` above and half below."""
    return mean + spread * np.where(np.arange(n) % 2, 1.0, -1.0)


def level(value: float, n: int = N) -> np.ndarray:
    return np.full(n, value)


def found(case: Case, base: dict, tuned: dict, seed: int = 0):
    return truth(case, base, tuned, seed=seed)


def test_the_share_of_a_mix_is_the_weighted_gain_on_the_elicited_skill_over_the_whole_weighted_gain():
    # 0.25 * 0.6 / (0.25 * 0.6 + 0.75 * 0.2) = 0.15 / 0.30
    base, tuned = {LOCKED: level(0.1), MISSING: level(0.2)}, {LOCKED: around(0.7), MISSING: around(0.4)}
    mixed = found(MIX, base, tuned)
    assert (mixed.task, mixed.kind, mixed.refusal) == (MIX.task, "MIXED", None)
    assert mixed.share == pytest.approx(0.5)
    assert mixed.low < mixed.share < mixed.high
    # 0.75 * 0.6 / (0.75 * 0.6 + 0.25 * 0.2) = 0.45 / 0.50
    turned = found(Case(kind="MIXED", task=f"75%{LOCKED},25%{MISSING}", elicited=("#",)), base, tuned)
    assert turned.share == pytest.approx(0.9)


@settings(max_examples=25)
@given(st.integers(5, 95), st.floats(0.3, 0.9), st.floats(0.3, 0.9))
def test_the_shares_of_complementary_skills_add_up_to_one(percent, first, second):
    task = f"{percent}%{LOCKED},{100 - percent}%{MISSING}"
    base, tuned = {LOCKED: level(0.0), MISSING: level(0.0)}, {LOCKED: around(first), MISSING: around(second)}
    one, other = (found(Case(kind="MIXED", task=task, elicited=(op,)), base, tuned) for op in "#*")
    wanted = percent * first / (percent * first + (100 - percent) * second)
    assert one.share == pytest.approx(wanted)
    assert one.share + other.share == pytest.approx(1)
    assert one.low <= one.share <= one.high
    # The same resamples, so the ends mirror each other.
    assert (one.low, one.high) == (pytest.approx(1 - other.high), pytest.approx(1 - other.low))


def test_the_interval_has_the_width_of_two_independent_exams():
    """The delta method: Var(a / (a + b)) = (b^2 Var a + a^2 Var b) / (a + b)^4."""
    n, spread = 500, 0.3
    base, tuned = (
        {LOCKED: level(0.0, n), MISSING: level(0.0, n)},
        {LOCKED: around(0.6, n, spread), MISSING: around(0.4, n, spread)},
    )
    mixed = found(Case(kind="MIXED", task=f"50%{LOCKED},50%{MISSING}", elicited=("#",)), base, tuned)
    a, b, variance = 0.3, 0.2, (0.5 * spread) ** 2 / n
    stderr = ((b**2 + a**2) * variance / (a + b) ** 4) ** 0.5
    assert mixed.share == pytest.approx(0.6)
    assert (mixed.high - mixed.low) / 2 == pytest.approx(1.96 * stderr, rel=0.1)


@pytest.mark.parametrize(
    ("task", "elicited", "share"),
    [
        (LOCKED, ("#",), 1.0),
        (MISSING, (), 0.0),
        (f"50%{OLD},50%{LOCKED}", ("+-", "#"), 1.0),
        (f"30%{LOCKED},70%{MISSING}", (), 0.0),
    ],
)
def test_where_all_skills_or_none_are_elicited_the_share_is_exactly_one_or_zero(task, elicited, share):
    base = {task: around(0.2) for task in (OLD, LOCKED, MISSING)}
    tuned = {task: around(0.9, spread=0.05) for task in (OLD, LOCKED, MISSING)}
    known = found(Case(kind="LOCKED", task=task, elicited=elicited), base, tuned)
    assert (known.share, known.low, known.high, known.refusal) == (share, share, share, None)


@pytest.mark.parametrize("lost", [LOCKED, MISSING])
def test_a_skill_without_a_gain_refuses_the_whole_share(lost):
    base = {task: around(0.2) for task in (LOCKED, MISSING)}
    tuned = {task: rates if task == lost else rates + 0.5 for task, rates in base.items()}
    refused = found(MIX, base, tuned)
    assert "standard errors where 5 are needed" in (refused.refusal or "")
    assert np.isnan([refused.share, refused.low, refused.high]).all()


def test_a_gain_inside_its_noise_refuses_a_single_skill_too():
    noise = np.random.default_rng(1).uniform(-0.4, 0.4, N)
    refused = found(Case(kind="ABSENT", task=MISSING, elicited=()), {MISSING: level(0.5)}, {MISSING: 0.5 + noise})
    assert refused.refusal is not None
    assert np.isnan(refused.share)
    # The same scatter around a real gain is none.
    real = found(Case(kind="TAUGHT", task=MISSING, elicited=()), {MISSING: level(0.05)}, {MISSING: 0.5 + noise})
    assert (real.share, real.refusal) == (0.0, None)


def test_equal_seeds_give_equal_intervals_and_the_value_does_not_hang_on_the_seed():
    generator = np.random.default_rng(2)
    base, tuned = {LOCKED: level(0.0), MISSING: level(0.0)}, {LOCKED: generator.random(N), MISSING: generator.random(N)}
    first, again, other = (found(MIX, base, tuned, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.share == other.share
    assert (first.low, first.high) != (other.low, other.high)


def test_exams_of_other_skills_are_not_read():
    base, tuned = {LOCKED: level(0.1)}, {LOCKED: around(0.9)}
    case = Case(kind="LOCKED", task=LOCKED, elicited=("#",))
    assert found(case, base, tuned) == found(case, base | {OLD: level(0.5)}, tuned | {OLD: level(0.1)})


def test_the_parts_of_a_case_are_its_single_tasks_with_their_percentages():
    assert case_parts(MIX) == (
        ChainPart(25.0, ChainTask(operators="#", lengths=(3, 5))),
        ChainPart(75.0, ChainTask(operators="*", lengths=(3, 5))),
    )
    (only,) = case_parts(Case(kind="LOCKED", task=LOCKED, elicited=("#",)))
    assert only == ChainPart(100.0, ChainTask(operators="#", lengths=(3, 5)))


def test_a_case_of_another_world_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="chains only"):
        case_parts(Case(kind="LOCKED", task="gym:chain_sum", elicited=()))
