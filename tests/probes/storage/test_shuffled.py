"""Shuffled batches: every row once an epoch, decided by the seed, and no more than a few shards in memory."""

from collections import Counter
from itertools import chain, count, islice

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.records.errors import SiteError, StorageError
from probes.capture.site import Site
from probes.storage import store as shuffled_module
from probes.storage.store import read_index, read_rows, shuffled

from .conftest import SITES, vouched

SITE = SITES[0]


@pytest.fixture(scope="module")
def kept(case, tmp_path_factory):
    """A finished store that no test changes."""
    return case.fill(tmp_path_factory.mktemp("kept") / "store")


def rows_of(batches) -> list[tuple[float, ...]]:
    return [tuple(row) for batch in batches for row in batch.tolist()]


sizes, seeds, mixes = st.integers(1, 300), st.integers(0, 2**31), st.integers(1, 9)


@given(sizes, seeds, st.integers(0, 5), mixes)
def test_every_row_comes_exactly_once_an_epoch_and_all_batches_but_the_last_are_full(kept, size, seed, epoch, n_mixed):
    batches = list(shuffled(kept, SITE, size, seed=seed, epoch=epoch, n_mixed=n_mixed))
    stored = [read_rows(kept, SITE, number) for number in range(len(kept.portions))]
    assert Counter(rows_of(batches)) == Counter(rows_of(stored))
    n_whole, n_left = divmod(kept.n_rows, size)
    assert [len(batch) for batch in batches] == [size] * n_whole + [n_left] * (n_left > 0)
    assert all(batch.dtype == kept.plan.dtype and batch.device.type == "cpu" for batch in batches)


@given(sizes, seeds, mixes)
def test_the_order_is_a_function_of_the_seed(kept, size, seed, n_mixed):
    first, again = (list(shuffled(kept, SITE, size, seed=seed, n_mixed=n_mixed)) for _ in range(2))
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


@given(seeds)
def test_seeds_and_epochs_are_different_orders(kept, seed):
    orders = [
        tuple(rows_of(shuffled(kept, SITE, 16, seed=seed + step, epoch=epoch))) for step in (0, 1) for epoch in (0, 1)
    ]
    assert len(set(orders)) == 4


def test_sites_come_in_the_same_order(kept):
    index = {
        row: place for place, row in enumerate(rows_of(read_rows(kept, SITES[2], n) for n in range(len(kept.portions))))
    }
    other = {
        row: place for place, row in enumerate(rows_of(read_rows(kept, SITE, n) for n in range(len(kept.portions))))
    }
    places = [index[row] for row in rows_of(shuffled(kept, SITES[2], 16, seed=3))]
    assert places == [other[row] for row in rows_of(shuffled(kept, SITE, 16, seed=3))]
    assert places != sorted(places)


def test_shards_are_mixed(kept):
    numbers = {row: n for n in range(len(kept.portions)) for row in rows_of([read_rows(kept, SITE, n)])}
    first = next(shuffled(kept, SITE, 64, seed=0))
    assert len({numbers[row] for row in rows_of([first])}) == 4
    # One at a time, a batch begins with the rows of a single shard.
    alone = next(shuffled(kept, SITE, 16, seed=0, n_mixed=1))
    assert len({numbers[row] for row in rows_of([alone])}) == 1


@pytest.mark.parametrize("n_mixed", [1, 2, 3])
def test_no_more_shards_are_held_than_are_mixed(kept, n_mixed, monkeypatch):
    most, together = [0], shuffled_module._together

    def watched(*arguments):
        rows = together(*arguments)
        most[0] = max(most[0], len(rows))
        return rows

    monkeypatch.setattr(shuffled_module, "_together", watched)
    list(shuffled(kept, SITE, 16, seed=0, n_mixed=n_mixed))
    assert most[0] < n_mixed * kept.plan.most_rows + 16


def test_shards_are_read_only_when_their_rows_are_due(kept, monkeypatch):
    n_read, reading = [0], shuffled_module.read_rows

    def counted(*arguments):
        n_read[0] += 1
        return reading(*arguments)

    monkeypatch.setattr(shuffled_module, "read_rows", counted)
    batches = shuffled(kept, SITE, 8, seed=0, n_mixed=2)
    assert n_read == [0]
    next(batches)
    assert n_read == [2]


def test_epochs_chain_into_an_endless_stream_as_a_trainer_wants_it(kept):
    endless = chain.from_iterable(shuffled(kept, SITE, 64, seed=0, epoch=epoch) for epoch in count())
    n_batches = -(-kept.n_rows // 64)
    assert sum(len(batch) for batch in islice(endless, 3 * n_batches)) == 3 * kept.n_rows


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 4, "n_mixed": 0}])
def test_sizes_below_one_are_refused(kept, arguments):
    with pytest.raises(StorageError, match="want at least 1 of each"):
        next(shuffled(kept, SITE, **arguments, seed=0))


def test_a_site_that_was_not_captured_is_refused(kept):
    with pytest.raises(SiteError, match="there is blocks"):
        next(shuffled(kept, Site(0), 4, seed=0))


@given(sizes, seeds, mixes, st.sets(st.integers(0, 5)))
def test_only_the_rows_of_kept_problems_come(kept, size, seed, n_mixed, wanted):
    names = {f"p{number}" for number in wanted}
    batches = list(shuffled(kept, SITE, size, seed=seed, n_mixed=n_mixed, keep=names.__contains__))
    index = kept.index().collect()
    stored = torch.cat([read_rows(kept, SITE, number) for number in range(len(kept.portions))])
    mask = torch.tensor(index["problem_id"].is_in(list(names)).to_list())
    assert Counter(rows_of(batches)) == Counter(rows_of([stored[mask]]))
    assert all(len(batch) == size for batch in batches[:-1])


def test_keeping_every_problem_changes_nothing(kept):
    plain, kept_all = (list(shuffled(kept, SITE, 16, seed=1, keep=keep)) for keep in (None, lambda _: True))
    assert all(torch.equal(*pair) for pair in zip(plain, kept_all, strict=True))


def test_an_index_that_cannot_be_read_is_named(store):
    (store.path / "index" / "00000.parquet").unlink()
    with pytest.raises(StorageError, match=r"00000\.parquet.*lab capture repair"):
        list(shuffled(store, SITE, 4, seed=0, keep=lambda _: True))


def test_an_index_of_other_columns_is_named(store):
    file = store.path / "index" / "00000.parquet"
    pl.read_parquet(file).drop("token").write_parquet(file)
    vouched(store)
    with pytest.raises(StorageError, match=r"not a 'activation index' table: token came as.*lab capture repair"):
        read_index(store, 0)


def test_the_indices_of_all_shards_are_the_index_of_the_store(kept):
    parts = [read_index(kept, number) for number in range(len(kept.portions))]
    assert pl.concat(parts).equals(kept.index().collect())


def test_a_batch_is_a_copy(kept):
    batch = next(shuffled(kept, SITE, 8, seed=0))
    batch.zero_()
    assert next(shuffled(kept, SITE, 8, seed=0)).abs().sum() > 0
