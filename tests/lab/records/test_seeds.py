"""Seeds are hashes, generators belong to their names, and a uniform number is a function of its key and step alone."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.seeds import child_seed, numpy_generator, torch_generator, uniforms

KEYS = st.integers(0, 2**63 - 1)


def splitmix64(state: int) -> int:
    """The published C function (Vigna, splitmix64.c), in Python's whole numbers: the output after one step."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_splitmix_gives_the_published_first_output_of_seed_zero():
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    assert uniforms(np.array([0], dtype=np.uint64), 0)[0] == (0xE220A8397B1DCDAF >> 11) / 2**53


@given(KEYS, st.integers(0, 4096))
def test_a_uniform_number_is_the_splitmix_output_at_key_and_step(key, step):
    wanted = splitmix64((key + step * 0x9E3779B97F4A7C15) % 2**64)
    assert uniforms(np.array([key], dtype=np.uint64), step)[0] == (wanted >> 11) / 2**53


@given(st.lists(KEYS, min_size=1, max_size=20), st.integers(0, 500))
def test_a_uniform_number_does_not_depend_on_the_batch_around_it(keys, step):
    batch = np.array(keys, dtype=np.uint64)
    alone = np.concatenate([uniforms(batch[index : index + 1], step) for index in range(len(batch))])
    assert (uniforms(batch, step) == alone).all()
    assert ((alone >= 0) & (alone < 1)).all()


def test_uniform_numbers_are_uniform_over_steps_and_over_samples():
    keys = np.array([child_seed(0, "problem", index) for index in range(500)], dtype=np.uint64)
    table = np.stack([uniforms(keys, step) for step in range(200)])
    counts = np.histogram(table, bins=20, range=(0, 1))[0]
    # 19 degrees of freedom: 43.8 is the 0.999 quantile.
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8
    # Neighbours in either direction are unrelated: |r| of 100,000 pairs stays under four standard errors.
    for first, second in ((table[1:], table[:-1]), (table[:, 1:], table[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 4 / first.size**0.5


@given(st.integers(0, 2**40), st.text(max_size=8), st.integers(0, 100))
def test_child_seeds_fit_63_bits_and_differ_between_neighbours(seed, name, index):
    child = child_seed(seed, name, index)
    assert 0 <= child < 2**63
    assert child == child_seed(seed, name, index)
    assert child != child_seed(seed, name, index + 1) != child_seed(seed + 1, name, index)


def test_names_do_not_run_together():
    assert (
        len({child_seed(1, "a", "bc"), child_seed(1, "ab", "c"), child_seed(1, "abc"), child_seed(11, "a", "bc")}) == 4
    )


def test_a_child_seed_is_the_same_on_every_machine():
    assert child_seed(0, "tokens") == 1672808048373674113


def test_generators_are_reproducible_and_none_is_global():
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = torch.rand(4, generator=torch_generator(3, "x"))
    assert torch.equal(first, torch.rand(4, generator=torch_generator(3, "x")))
    assert not torch.equal(first, torch.rand(4, generator=torch_generator(3, "y")))
    assert (numpy_generator(3, "x").random(4) == numpy_generator(3, "x").random(4)).all()
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002
