"""A flipped byte is found and named; what is damaged is captured again, and nothing else is touched."""

import random
import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from lab.models.tiny import tiny_model
from lab.records.errors import SiteError, StorageError
from probes.capture.site import CompletionTokens, Site
from probes.storage.fill import Damage, repair, require_whole, verify
from probes.storage.store import plan, read_rows, write_manifest

from .conftest import SITES, Case, vouched


def flip(file, draw: random.Random) -> None:
    """One bit of one byte."""
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def test_a_whole_store_has_no_damage(store):
    assert verify(store) == ()
    require_whole(store)


@pytest.mark.parametrize("seed", range(20))
def test_a_flipped_bit_anywhere_is_found_named_and_mended_to_the_same_bytes(store, case, files, stamps, seed):
    draw = random.Random(seed)
    name = draw.choice([name for name in store.files if name != "texts.parquet"])
    before, written = files(store.path), stamps(store.path)
    flip(store.path / name, draw)
    assert verify(store) == (Damage(name, "altered"),)
    with pytest.raises(StorageError, match=f"is damaged: {name} is altered; lab capture repair {store.path}"):
        require_whole(store)
    with pytest.raises(StorageError, match=f"{name} is altered"):
        case.fill(store.path)
    assert repair(store, verify(store), case.model) == (name,)
    assert files(store.path) == before
    assert {other for other, stamp in stamps(store.path).items() if stamp != written[other]} == {name}


@pytest.mark.parametrize("number", range(4))
def test_a_deleted_shard_alone_is_written_again(store, case, files, stamps, number):
    name = f"shards/{number:05d}.safetensors"
    before, written = files(store.path), stamps(store.path)
    (store.path / name).unlink()
    assert verify(store) == (Damage(name, "missing"),)
    told = []
    assert repair(store, verify(store), case.model, on_progress=lambda *progress: told.append(progress)) == (name,)
    assert told == [(0, 1), (1, 1)]
    assert files(store.path) == before
    assert {other for other, stamp in stamps(store.path).items() if stamp != written[other]} == {name}


def test_everything_but_the_texts_can_be_made_again(store, case, files):
    before = files(store.path)
    shutil.rmtree(store.path / "shards")
    shutil.rmtree(store.path / "index")
    assert len(repair(store, verify(store), case.model)) == len(before) - 2
    assert files(store.path) == before


def test_a_repair_that_was_killed_leaves_nothing_in_the_way_of_the_next(store, case, files):
    before = files(store.path)
    scratch = store.path / ".repair" / "shards"
    scratch.mkdir(parents=True)
    (scratch / "00000.safetensors").write_text("half")
    store.shard(0).unlink()
    repair(store, verify(store), case.model)
    assert files(store.path) == before


def test_nothing_is_repaired_with_another_model_or_without_texts(store, case, files):
    store.shard(0).unlink()
    before = files(store.path)
    with pytest.raises(StorageError, match="want that very model"):
        repair(store, verify(store), tiny_model("llama", seed=6, n_layers=3))
    with pytest.raises(StorageError, match="nothing can be captured again without it"):
        repair(store, (Damage("texts.parquet", "altered"),), case.model)
    assert files(store.path) == before


def test_a_repair_that_comes_out_different_changes_nothing(store, case, files):
    # As it may with another number of threads.
    promised = replace(store, files={**store.files, "shards/00001.safetensors": "0" * 64})
    before = files(store.path)
    with pytest.raises(StorageError, match=r"00001\.safetensors, captured again, has other bytes .* torch \d"):
        repair(promised, verify(promised), case.model)
    assert files(store.path) == before


def test_a_missing_index_is_named_when_it_is_asked_for(store):
    (store.path / "index" / "00001.parquet").unlink()
    with pytest.raises(StorageError, match=rf"00001\.parquet is missing: lab capture repair {store.path}"):
        store.index()


def test_a_site_that_was_not_captured_is_refused_with_those_that_were(store):
    with pytest.raises(SiteError, match=r"has no blocks\.0\.hook_resid_post: there is blocks\.1\.hook_resid_post, "):
        read_rows(store, Site(0), 0)


def test_a_shard_cut_short_or_missing_is_no_traceback_of_safetensors(store):
    file = store.shard(1)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(StorageError, match=rf"cannot read .*00001\.safetensors: .*lab capture repair {store.path}"):
        read_rows(store, SITES[0], 1)
    file.unlink()
    with pytest.raises(StorageError, match=r"cannot read .*00001\.safetensors"):
        read_rows(store, SITES[0], 1)


@pytest.mark.parametrize("change", [lambda rows: rows.half(), lambda rows: rows[1:]])
def test_a_shard_of_another_dtype_or_shape_is_refused(store, change):
    file = store.shard(1)
    save_file({name: change(rows).contiguous() for name, rows in load_file(file).items()}, file)
    vouched(store)
    with pytest.raises(
        StorageError, match=r"holds blocks\.1\.hook_resid_post as torch\.float.* want torch\.float32 \("
    ):
        read_rows(store, SITES[0], 1)


def test_a_store_of_one_shard_that_is_not_finished_is_not_repaired_but_gone_on_with(case, tmp_path):
    one = Case(case.model, case.texts, plan(case.model, case.texts, SITES, CompletionTokens()))
    store = one.fill(tmp_path / "store")
    assert len(store.portions) == 1
    write_manifest(replace(store, files={}))
    store.shard(0).unlink()
    assert one.fill(store.path) == store
