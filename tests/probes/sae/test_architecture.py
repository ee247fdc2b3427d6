"""How a user writes an architecture."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import ModelError
from probes.sae.architecture import BatchTopK, JumpReLU, Matryoshka, Standard, TopK, parse_architecture

ks = st.integers(1, 10_000)
coefficients = st.floats(1e-9, 1e9)
widths = st.lists(st.integers(1, 5000), unique=True).map(lambda chosen: tuple(sorted(chosen)))
# Made in the test's body: the run-time type checks draw random numbers, which a strategy must not.
made = st.one_of(
    st.tuples(st.sampled_from([TopK, BatchTopK]), ks),
    st.tuples(st.just(Matryoshka), ks, widths),
    st.tuples(st.sampled_from([JumpReLU, Standard]), coefficients),
)


@given(made)
def test_what_is_written_is_read_back(made):
    kind, *arguments = made
    assert parse_architecture(str(kind(*arguments))) == kind(*arguments)


@pytest.mark.parametrize(
    "text", ["", "topk", "topk:", "topk:x", "topk:1.5", "topk:3:4", "gated:1", "matryoshka:4:", "jumprelu:one"]
)
def test_anything_else_is_refused_with_what_was_wanted(text):
    with pytest.raises(ModelError, match=re.escape(f"no SAE is trained as {text!r}: want topk:K")):
        parse_architecture(text)


@pytest.mark.parametrize(
    "text", ["topk:0", "batchtopk:-1", "matryoshka:0", "jumprelu:0", "standard:nan", "standard:inf"]
)
def test_numbers_that_are_not_above_zero_are_refused(text):
    with pytest.raises(ModelError, match="want a number above 0"):
        parse_architecture(text)


@pytest.mark.parametrize("given_widths", [(0, 4), (4, 4), (8, 4)])
def test_inner_widths_must_grow(given_widths):
    with pytest.raises(ModelError, match="that grow, from 1"):
        Matryoshka(4, given_widths)


def test_inner_widths_are_an_eighth_a_quarter_and_a_half_unless_given():
    assert Matryoshka(4).inner_widths(512) == (64, 128, 256)
    assert Matryoshka(4, (10, 20)).inner_widths(512) == (10, 20)
    assert Matryoshka(1).inner_widths(2) == (1,)
