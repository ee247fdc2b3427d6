"""Which problems are held out."""

from hypothesis import given
from hypothesis import strategies as st

from probes.sae.architecture import count_rows, is_held_out

shares = st.floats(0, 1)


@given(st.text(), shares, shares)
def test_a_larger_share_holds_out_all_that_a_smaller_one_does(problem_id, one, other):
    low, high = sorted((one, other))
    assert is_held_out(problem_id, low) <= is_held_out(problem_id, high)


@given(st.text())
def test_no_share_is_no_problem_and_all_of_them_every_problem(problem_id):
    assert not is_held_out(problem_id, 0.0)
    assert is_held_out(problem_id, 1.0)


def test_about_the_share_that_was_asked_for_is_held_out():
    n_held_out = sum(is_held_out(f"problem {number}", 0.1) for number in range(10_000))
    # Six standard deviations.
    assert abs(n_held_out - 1000) < 180


def test_rows_are_counted_on_either_side(store):
    problems = store.index().collect()["problem_id"].to_list()
    n_held_out = sum(is_held_out(problem_id, 0.3) for problem_id in problems)
    assert 0 < n_held_out < len(problems)
    assert count_rows(store, 0.3) == (len(problems) - n_held_out, n_held_out)
