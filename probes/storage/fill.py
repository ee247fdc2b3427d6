"""fill: a store of activations, made shard by shard, and gone on with where it was stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import polars as pl

from lab.errors import StorageError
from lab.models.load import Model
from lab.provenance import Provenance, file_digest
from lab.tables import write_table
from probes.storage.plan import Plan, differences, portions
from probes.storage.shard import write_shard
from probes.storage.store import (
    MANIFEST,
    TEXTS_FILE,
    Store,
    index_name,
    read_manifest,
    require_model,
    shard_name,
    write_manifest,
)
from probes.storage.verify import require_whole
from probes.texts import TEXTS, texts_digest


def fill(
    model: Model,
    texts: pl.DataFrame,
    plan: Plan,
    out: Path,
    made_by: Provenance,
    *,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Store:
    """The finished store of `plan` at `out`, of which whole shards are kept when they are there.

    Holds one shard at a time. Killed at any moment and started again, it ends with the bytes of a run that was never
    stopped; of a finished store it only checks the files. `on_progress` is told rows just written, and rows in all.
    Raises StorageError where `out` holds something else, a store of another plan or of another version of the code, or
    a finished store with a damaged file.
    """
    assert plan.texts == texts_digest(texts), "a plan of other texts"
    store = _begun(model, texts, plan, out, made_by)
    require_model(store, model)
    if store.files:
        require_whole(store)
        return store
    for leftover in out.rglob(".*.partial"):
        leftover.unlink()
    if not (out / TEXTS_FILE).exists():
        write_table(out / TEXTS_FILE, texts, TEXTS, made_by)
    names = [TEXTS_FILE]
    on_progress(0, store.n_rows)
    for number, portion in enumerate(store.portions):
        files = [shard_name(number), index_name(number)]
        if not all((out / name).exists() for name in files):
            write_shard(model, plan, texts, number, portion, out, made_by)
        on_progress(portion.n_rows, store.n_rows)
        names += files
    finished = replace(store, files={name: file_digest(out / name) for name in names})
    write_manifest(finished)
    return finished


def _begun(model: Model, texts: pl.DataFrame, plan: Plan, out: Path, made_by: Provenance) -> Store:
    """The store at `out`, with a manifest."""
    if (out / MANIFEST).exists():
        store = read_manifest(out)
        if store.plan != plan:
            raise StorageError(
                f"{out} is a store of another configuration: {differences(store.plan, plan)}; choose another --out"
            )
        if not store.files and store.made_by != made_by:
            raise StorageError(
                f"{out} was begun by another version ({_version(store.made_by)}; this is {_version(made_by)}), which "
                "may give other bytes: go on with that one, or delete it"
            )
        return store
    if out.exists() and (not out.is_dir() or any(not path.name.endswith(".partial") for path in out.iterdir())):
        raise StorageError(f"{out} exists and is not a store of activations: choose another --out")
    store = Store(path=out, plan=plan, made_by=made_by, portions=portions(plan, model.tokenizer, texts), files={})
    write_manifest(store)
    return store


def _version(made_by: Provenance) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in made_by.packages.items())
    return f"commit {made_by.commit[:12]}{' with changes' if made_by.dirty else ''}, seed {made_by.seed}, {packages}"
