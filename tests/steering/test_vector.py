"""Steering vectors form a vector space, compare by their directions, and refuse what cannot steer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import VectorError
from probes.capture.site import Site
from steering.vector import SteeringVector

WIDTH = 3
SITES = [Site(0), Site(0, "resid_pre"), Site(1), Site(7)]
ENTRIES = st.floats(-100, 100, width=32)
FACTORS = st.floats(-50, 50)
DIRECTIONS = st.dictionaries(
    st.sampled_from(SITES), st.lists(ENTRIES, min_size=WIDTH, max_size=WIDTH), min_size=1, max_size=len(SITES)
)


def vector(directions, description="made by hand") -> SteeringVector:
    return SteeringVector(
        {site: torch.tensor(entries) for site, entries in directions.items()},
        dict.fromkeys(directions, 2.0),
        description,
    )


VECTORS = DIRECTIONS.map(vector)


def assert_close(first, second):
    """Equal up to the rounding of fp32 numbers in the thousands; a site that only one has counts as zero."""
    for site in {*first.sites, *second.sites}:
        zero = torch.zeros(WIDTH)
        torch.testing.assert_close(
            first.directions.get(site, zero), second.directions.get(site, zero), atol=1e-3, rtol=1e-5
        )


@given(VECTORS, VECTORS)
def test_adding_commutes(v, w):
    assert v + w == w + v
    assert set((v + w).sites) == {*v.sites, *w.sites}


@given(VECTORS, VECTORS, VECTORS)
def test_adding_associates(u, v, w):
    assert_close((u + v) + w, u + (v + w))


@given(VECTORS)
def test_a_vector_minus_itself_is_zero_and_zero_adds_nothing(v):
    zero = v - v
    assert all(norm == 0 for norm in zero.norms.values())
    assert zero == v * 0.0
    assert v + zero == v


@given(VECTORS, VECTORS)
def test_subtracting_is_adding_the_negative(v, w):
    assert v - w == v + (-w)
    assert v * -1.0 * -1.0 == v
    assert v * 1.0 == v


@given(VECTORS, FACTORS, FACTORS)
def test_scaling_twice_is_scaling_by_the_product(v, a, b):
    assert_close((v * a) * b, v * (a * b))
    assert v * a == a * v


@given(VECTORS, VECTORS, FACTORS, FACTORS)
def test_scaling_distributes_over_both_sums(v, w, a, b):
    assert_close((v + w) * a, v * a + w * a)
    assert_close(v * (a + b), v * a + v * b)


@given(VECTORS, FACTORS)
def test_norms_scale_with_the_factor(v, a):
    for site, norm in (v * a).norms.items():
        assert norm == pytest.approx(abs(a) * v.norms[site], rel=1e-5, abs=1e-5)


@given(VECTORS, VECTORS)
def test_equal_vectors_have_equal_hashes_and_how_they_were_found_does_not_count(v, w):
    twin = SteeringVector(v.directions, dict.fromkeys(v.sites, math.nan), "another way")
    assert v == twin
    assert hash(v) == hash(twin)
    assert (v == w) == (
        v.sites == w.sites and all(torch.equal(v.directions[site], w.directions[site]) for site in v.sites)
    )
    assert v != "a vector"


def test_sites_are_in_order_of_layer_whatever_the_order_given():
    first = vector({Site(7): [1.0, 0, 0], Site(0): [0, 1.0, 0]})
    second = vector({Site(0): [0, 1.0, 0], Site(7): [1.0, 0, 0]})
    assert first.sites == (Site(0), Site(7))
    assert first == second
    assert first.d_model == WIDTH


def test_half_precision_directions_are_kept_in_single_precision():
    half = SteeringVector({Site(0): torch.tensor([0.1, 0.2], dtype=torch.bfloat16)}, {Site(0): 1.0}, "")
    assert half.directions[Site(0)].dtype == torch.float32


def test_a_vector_is_a_value_that_its_maker_can_no_longer_change():
    direction, norms = torch.ones(WIDTH, requires_grad=True), {Site(0): 1.0}
    made = SteeringVector({Site(0): direction}, norms, "")
    with torch.no_grad():
        direction.zero_()
    norms[Site(0)] = 5.0
    assert made.directions[Site(0)].tolist() == [1, 1, 1]
    assert made.residual_norms[Site(0)] == 1.0
    assert not made.directions[Site(0)].requires_grad
    with pytest.raises(TypeError):
        made.directions[Site(1)] = torch.ones(WIDTH)
    with pytest.raises(AttributeError):
        made.description = "else"


def test_a_sum_keeps_the_residual_norms_and_says_how_it_was_made():
    total = vector({Site(0): [1.0, 0, 0]}, "a") + vector({Site(1): [1.0, 0, 0]}, "b") * 2.0
    assert total.residual_norms == {Site(0): 2.0, Site(1): 2.0}
    assert total.description == "(a) + (2 * (b))"


@pytest.mark.parametrize(
    ("directions", "norms", "message"),
    [
        ({}, {}, "without a site"),
        ({Site(0): torch.ones(2)}, {}, "want the same sites"),
        ({Site(0): torch.ones(2)}, {Site(0): 1.0, Site(1): 1.0}, "want the same sites"),
        ({Site(0): torch.ones(2), Site(1): torch.ones(3)}, {Site(0): 1.0, Site(1): 1.0}, r"widths \[2, 3\]"),
        ({Site(0): torch.tensor([1.0, math.nan])}, {Site(0): 1.0}, "NaN or infinity"),
        ({Site(0): torch.tensor([math.inf, 1.0])}, {Site(0): 1.0}, "NaN or infinity"),
    ],
)
def test_what_cannot_steer_is_refused(directions, norms, message):
    with pytest.raises(VectorError, match=message):
        SteeringVector(directions, norms, "")


def test_vectors_of_different_models_do_not_add():
    narrow = SteeringVector({Site(0): torch.ones(2)}, {Site(0): 1.0}, "")
    for combine in (lambda: narrow + vector({Site(0): [1.0] * 3}), lambda: vector({Site(0): [1.0] * 3}) - narrow):
        with pytest.raises(VectorError, match="do not add: the vectors are of different models"):
            combine()


def test_a_scale_that_overflows_is_refused():
    with pytest.raises(VectorError, match="NaN or infinity"):
        vector({Site(0): [1.0, 0, 0]}) * 1e39
