"""Two stores are read together: same tokens, same order, problems split once and for all, or not at all."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.records.errors import SiteError, StorageError
from lab.records.provenance import file_digest
from probes.capture.site import TEXTS, AllTokens, CompletionTokens, Site
from probes.crosscoder.crosscoder import HELD_OUT_SHARE, Paired
from probes.sae.architecture import is_held_out
from probes.storage.fill import fill
from probes.storage.store import index_name, plan, read_rows, shuffled, write_manifest

from .conftest import MADE_BY, N_TOKENS, SITE, planted_store, write_shard


def stored(paired: Paired) -> list[tuple[float, ...]]:
    rows = [
        torch.stack([read_rows(store, SITE, number) for store in (paired.base, paired.tuned)], dim=1)
        for number in range(len(paired.base.portions))
    ]
    return [tuple(row) for row in torch.cat(rows).flatten(1).tolist()]


def rows_of(batches) -> list[tuple[float, ...]]:
    return [tuple(row) for batch in batches for row in batch.flatten(1).tolist()]


sizes, seeds, mixes = st.integers(1, 900), st.integers(0, 2**31), st.integers(1, 5)


@settings(max_examples=30)
@given(sizes, seeds, st.integers(0, 3), mixes)
def test_the_two_splits_together_are_every_pair_of_rows_once(small, size, seed, epoch, n_mixed):
    splits = [
        list(small.paired.batches(split, size, seed=seed, epoch=epoch, n_mixed=n_mixed))
        for split in ("training", "held out")
    ]
    assert Counter(rows_of(splits[0] + splits[1])) == Counter(stored(small.paired))
    for batches in splits:
        assert {len(batch) for batch in batches[:-1]} <= {size}


def test_stores_of_two_models_are_read_as_each_alone(tmp_path):
    texts = TEXTS.frame(
        [
            {"problem_id": f"p{text}", "sample_index": 0, "prompt": [5, text], "completion": [7] * (1 + text % 4)}
            for text in range(40)
        ]
    )
    stores = []
    for seed in (1, 2):
        model = tiny_model("llama", seed=seed)
        planned = plan(model, texts, (SITE,), AllTokens(), stored="bfloat16", shard_bytes=4096)
        stores.append(fill(model, texts, planned, tmp_path / str(seed), MADE_BY))
    assert len(stores[0].portions) == 3
    paired = Paired(base=stores[0], tuned=stores[1], site=SITE)
    rows = torch.cat([*paired.batches("training", 50, seed=0), *paired.batches("held out", 50, seed=0)])
    assert rows.dtype == torch.float32
    for place, store in enumerate(stores):
        alone = torch.cat(list(shuffled(store, SITE, 50, seed=0))).float()
        assert Counter(map(tuple, rows[:, place].tolist())) == Counter(map(tuple, alone.tolist()))


@settings(max_examples=20)
@given(sizes, seeds, st.integers(0, 3), mixes)
def test_either_side_is_what_an_sae_of_that_store_would_learn_from(small, size, seed, epoch, n_mixed):
    order = {"seed": seed, "epoch": epoch, "n_mixed": n_mixed}
    paired = list(small.paired.batches("training", size, **order))
    for place, store in enumerate((small.paired.base, small.paired.tuned)):
        alone = shuffled(store, SITE, size, **order, keep=lambda problem: not is_held_out(problem, HELD_OUT_SHARE))
        assert all(torch.equal(both[:, place], one) for both, one in zip(paired, alone, strict=True))


def test_a_split_is_of_whole_problems_and_one_in_ten_is_held_out(small):
    problem = {row: place // N_TOKENS for place, row in enumerate(stored(small.paired))}
    training, held_out = (
        Counter(problem[row] for row in rows_of(small.paired.batches(split, 500, seed=0)))
        for split in ("training", "held out")
    )
    assert not set(training) & set(held_out)
    assert set((training + held_out).values()) == {N_TOKENS}
    assert 0.03 < len(held_out) / 90 < 0.2


@settings(max_examples=20)
@given(seeds)
def test_order_is_a_function_of_seed_and_epoch_and_the_split_is_not(small, seed):
    first, again, epoch, other = (
        tuple(rows_of(small.paired.batches("held out", 100, seed=seed + more, epoch=epoch)))
        for more, epoch in ((0, 0), (0, 0), (0, 1), (1, 0))
    )
    assert first == again
    assert len({first, epoch, other}) == 3
    assert sorted(first) == sorted(epoch) == sorted(other)


def test_shards_are_read_only_when_their_rows_are_due(small, monkeypatch):
    read = []
    monkeypatch.setattr("probes.storage.store.read_rows", lambda *asked: read.append(asked) or read_rows(*asked))
    batches = small.paired.batches("training", 100, seed=0, n_mixed=2)
    assert read == []
    next(batches)
    assert len(read) == 4


def other(paired: Paired, **changes) -> Paired:
    """With another plan of the tuned store."""
    return replace(paired, tuned=replace(paired.tuned, plan=replace(paired.tuned.plan, **changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_digest": "base"}, "are of the same model"),
        ({"d_model": 8}, "have widths 6 and 8"),
        ({"texts": "0" * 16}, "want both captured from the same traces"),
        ({"positions": CompletionTokens()}, "want the same rule"),
    ],
)
def test_stores_that_do_not_match_are_refused(small, changes, said):
    with pytest.raises(StorageError, match=said):
        other(small.paired, **changes)


def test_stores_that_are_cut_differently_are_refused(small):
    cut = replace(small.paired.tuned, portions=small.paired.tuned.portions[:1])
    with pytest.raises(StorageError, match=r"cut into shards differently \(4 and 1\): want them captured with"):
        replace(small.paired, tuned=cut)


def test_a_site_that_one_store_lacks_is_refused(small):
    with pytest.raises(SiteError, match=r"tuned has no blocks\.1\.hook_resid_post: there is blocks\.0"):
        other(small.paired, sites=(Site(0),))


def test_rows_of_other_tokens_are_refused(small, tmp_path):
    shutil.copytree(small.paired.tuned.path, tmp_path / "tuned")
    rows = read_rows(small.paired.tuned, SITE, 2)
    write_shard(tmp_path / "tuned", 2, rows, first=2 * len(rows) // N_TOKENS, shift=1)
    files = {name: file_digest(tmp_path / "tuned" / name) for name in small.paired.tuned.files}
    tuned = replace(small.paired.tuned, path=tmp_path / "tuned", files=files)
    write_manifest(tuned)
    paired = replace(small.paired, tuned=tuned)
    with pytest.raises(StorageError, match=r"shard 2 of .* is not of the same tokens"):
        list(paired.batches("training", 100, seed=0))


def test_a_missing_index_is_refused(small, tmp_path):
    shutil.copytree(small.paired.base.path, tmp_path / "base")
    (tmp_path / "base" / index_name(0)).unlink()
    paired = replace(small.paired, base=replace(small.paired.base, path=tmp_path / "base"))
    with pytest.raises(StorageError, match="lab capture repair"):
        list(paired.batches("training", 100, seed=0))


def test_a_split_without_a_problem_is_refused(tmp_path):
    rows = torch.randn(N_TOKENS, 4, generator=torch.Generator().manual_seed(0))
    stores = [planted_store(tmp_path / name, rows, name) for name in ("base", "tuned")]
    paired = Paired(base=stores[0], tuned=stores[1], site=SITE)
    assert len(rows_of(paired.batches("training", 7, seed=0))) == N_TOKENS
    with pytest.raises(StorageError, match=r"no problem of .* is held out"):
        list(paired.batches("held out", 7, seed=0))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"batch_size": 1, "n_mixed": 0}])
def test_sizes_below_one_are_refused(small, wrong):
    with pytest.raises(StorageError, match="want at least 1 of each"):
        next(small.paired.batches("training", seed=0, **wrong))
