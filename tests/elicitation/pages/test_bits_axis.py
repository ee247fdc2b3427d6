import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elicitation.pages.study.figures import bits_axis, places

NAN = math.nan


def arm(n_bits: float, kind: str = "rung", low: float = NAN, high: float = NAN) -> dict[str, object]:
    return {"kind": kind, "bits_per_token": n_bits, "bits_low": low, "bits_high": high}


def test_ten_times_the_bits_stand_one_further_right():
    axis = bits_axis([arm(0.01), arm(1.0), arm(0.0)])
    assert axis.place(1.0) - axis.place(0.1) == pytest.approx(1.0)
    assert axis.place(0.1) - axis.place(0.01) == pytest.approx(1.0)


@given(st.lists(st.one_of(st.just(0.0), st.floats(1e-6, 20)), min_size=1, max_size=30))
def test_no_bits_stand_in_the_strip_apart_from_any_bits(found: list[float]):
    arms = [arm(n_bits, "rung" if index % 3 else "control") for index, n_bits in enumerate(found)]
    axis = bits_axis(arms)
    placed = places(arms, axis)
    assert all((-axis.strip < place < 0) == (n_bits == 0) for place, n_bits in zip(placed, found, strict=True))
    assert all(axis.gap <= place <= axis.end for place, n_bits in zip(placed, found, strict=True) if n_bits)
    free = [place for place, n_bits in zip(placed, found, strict=True) if n_bits == 0]
    assert free == sorted(set(free))


def test_intervals_are_on_the_axis_and_what_is_beyond_stands_at_its_end():
    axis = bits_axis([arm(0.3, low=0.1, high=0.9), arm(0.0)])
    assert axis.gap < axis.place(0.1) < axis.place(0.9) < axis.end
    assert axis.place(1e-9) == axis.gap
    assert axis.place(1e9) == axis.end
    assert axis.place(0.0) == 0.0


def test_an_axis_without_free_arms_has_no_strip_and_no_zero():
    axis = bits_axis([arm(0.3), arm(math.inf)])
    assert (axis.strip, axis.gap) == (0.0, 0.0)
    assert "0" not in dict(axis.ticks()).values()


def test_ticks_are_round_numbers_finer_where_the_axis_is_short():
    assert [label for _, label in bits_axis([arm(0.1), arm(1.0), arm(0.0)]).ticks()] == ["0", "0.1", "0.2", "0.5", "1"]
    assert [label for _, label in bits_axis([arm(0.001), arm(1.0)]).ticks()] == ["0.001", "0.01", "0.1", "1"]


def test_an_axis_of_free_arms_alone_has_a_strip():
    axis = bits_axis([arm(0.0), arm(0.0)])
    assert axis.strip > 0
    assert len(set(places([arm(0.0), arm(0.0)], axis))) == 2
