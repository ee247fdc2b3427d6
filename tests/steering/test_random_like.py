"""Random vectors have the norms of the vector they control for, and nothing else of it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import VectorError
from lab.records.seeds import torch_generator
from probes.capture.site import Site
from steering.vector import SteeringVector, norm_matched, random_like

VECTOR = SteeringVector(
    {Site(0): torch.arange(64.0), Site(2): torch.full((64,), 0.25)}, {Site(0): 3.0, Site(2): 5.0}, "x"
)


@given(st.integers(0, 10**6))
def test_norms_and_sites_are_those_of_the_vector(seed):
    drawn = random_like(VECTOR, torch_generator(seed))
    assert drawn.sites == VECTOR.sites
    assert drawn.residual_norms == VECTOR.residual_norms
    for site, norm in drawn.norms.items():
        assert norm == pytest.approx(VECTOR.norms[site], rel=1e-5)


def test_one_generator_gives_one_vector_and_another_gives_another():
    assert random_like(VECTOR, torch_generator(1, "a")) == random_like(VECTOR, torch_generator(1, "a"))
    assert random_like(VECTOR, torch_generator(1, "a")) != random_like(VECTOR, torch_generator(1, "b"))


def test_directions_are_unrelated_to_the_vector_and_to_each_other():
    draws = torch.stack([random_like(VECTOR, torch_generator(0, index)).directions[Site(0)] for index in range(400)])
    units = torch.nn.functional.normalize(draws, dim=1)
    along = units @ torch.nn.functional.normalize(VECTOR.directions[Site(0)], dim=0)
    # Cosines of random directions in 64 dimensions have mean 0 and variance 1/64.
    assert abs(float(along.mean())) < 4 * (1 / 64 / 400) ** 0.5
    assert float(along.var()) == pytest.approx(1 / 64, rel=0.3)


def test_a_zero_vector_is_controlled_for_by_a_zero_vector():
    zero = random_like(VECTOR * 0.0, torch_generator(0))
    assert zero == VECTOR * 0.0


def test_it_says_what_it_is():
    assert random_like(VECTOR, torch_generator(0)).description == "random, norm-matched to (x)"


def test_a_control_of_another_length_is_stretched_to_that_of_the_vector_at_each_site():
    control = SteeringVector({Site(0): torch.eye(64)[3], Site(2): -torch.eye(64)[5]}, {Site(0): 1.0, Site(2): 1.0}, "c")
    stretched = norm_matched(control, VECTOR)
    for site, norm in VECTOR.norms.items():
        torch.testing.assert_close(stretched.directions[site], norm * control.directions[site])
    assert stretched.residual_norms == VECTOR.residual_norms
    assert stretched.description == "c, norm-matched to (x)"


def test_a_control_without_a_direction_or_at_another_site_is_refused():
    vector = SteeringVector({Site(0): torch.ones(4)}, {Site(0): 2.0}, "v")
    for control in (vector * 0.0, SteeringVector({Site(1): torch.ones(4)}, {Site(1): 2.0}, "w")):
        with pytest.raises(VectorError, match="cannot be stretched to a vector at blocks"):
            norm_matched(control, vector)
