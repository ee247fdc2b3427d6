"""fill: a store of activations, made shard by shard, and gone on with where it was stopped."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, assert_never

import polars as pl
import torch

from lab.models.load import Model, load
from lab.models.source import AdapterModel, BuiltInModel, GgufModel, HubModel, LocalModel, ModelSource, model_source
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, file_digest
from lab.records.scale_out import Here, Ray, map_shards
from lab.records.tables import leftovers, read_table, write_table
from probes.capture.site import TEXTS, texts_digest
from probes.storage.shard import write_shard
from probes.storage.store import (
    DTYPES,
    MANIFEST,
    TEXTS_FILE,
    Plan,
    Store,
    differences,
    index_name,
    portions,
    read_manifest,
    require_model,
    shard_name,
    write_manifest,
)


class Damage(NamedTuple):
    """What is wrong with one file."""

    name: str
    """Path inside the store."""
    fault: Literal["missing", "altered"]


def verify(store: Store) -> tuple[Damage, ...]:
    """Every file of a finished store that is missing or has other bytes than were written; reads all of them."""
    found = []
    for name, checksum in store.files.items():
        if not (store.path / name).is_file():
            found.append(Damage(name, "missing"))
        elif file_digest(store.path / name) != checksum:
            found.append(Damage(name, "altered"))
    return tuple(found)


def require_whole(store: Store) -> None:
    """StorageError naming every damaged file of `store`."""
    if damaged := verify(store):
        named = ", ".join(f"{name} is {fault}" for name, fault in damaged)
        raise StorageError(f"{store.path} is damaged: {named}; lab capture repair {store.path}")


SCRATCH = ".repair"


def repair(
    store: Store, damaged: Sequence[Damage], model: Model, *, on_progress: Callable[[int, int], None] = lambda *_: None
) -> tuple[str, ...]:
    """The names of the files that were written anew, each with the very bytes that the manifest promises.

    `on_progress` is told shards just captured, and shards in all. Raises StorageError where `model` is another one,
    where the texts themselves are damaged, or where the bytes come out different, as they may on another device,
    number of threads or version of torch; what was damaged is then still there.
    """
    require_model(store, model)
    names = {damage.name for damage in damaged}
    if TEXTS_FILE in names:
        raise StorageError(
            f"{store.path / TEXTS_FILE} is damaged, and nothing can be captured again without it: put it back from a "
            "copy, or capture into another --out"
        )
    texts = read_table(store.path / TEXTS_FILE, TEXTS)
    scratch, mended = store.path / SCRATCH, []
    shutil.rmtree(scratch, ignore_errors=True)
    wanted = [
        (number, portion, sorted(files))
        for number, portion in enumerate(store.portions)
        if (files := {shard_name(number), index_name(number)} & names)
    ]
    on_progress(0, len(wanted))
    for number, portion, files in wanted:
        write_shard(model, store.plan, texts, number, portion, scratch, store.made_by)
        for name in files:
            if file_digest(scratch / name) != store.files[name]:
                shutil.rmtree(scratch)
                raise StorageError(
                    f"{name}, captured again, has other bytes than it had: repair on the same machine with as many "
                    f"threads and the same versions ({', '.join(map(' '.join, store.made_by.packages.items()))}), or "
                    "capture into another --out"
                )
        for name in files:
            (store.path / name).parent.mkdir(exist_ok=True)
            (scratch / name).replace(store.path / name)
            mended.append(name)
        on_progress(1, len(wanted))
    shutil.rmtree(scratch, ignore_errors=True)
    return tuple(mended)


def fill(
    model: Model,
    texts: pl.DataFrame,
    plan: Plan,
    out: Path,
    made_by: Provenance,
    *,
    on: Here | Ray = Here(),  # noqa: B008 -- a frozen value
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Store:
    """The finished store of `plan` at `out`, of which whole shards are kept when they are there.

    Holds one shard at a time. Killed at any moment and started again, it ends with the bytes of a run that was never
    stopped; of a finished store it only checks the files. Workers on Ray load the model themselves, from where its
    name says, and write into `out`; the bytes are the same. `on_progress` is told rows just written, and rows in all.
    Raises StorageError where `out` holds something else, a store of another plan or of another version of the code, or
    a finished store with a damaged file, ModelError where workers cannot find the model, and WorkerError as
    `map_shards` does.
    """
    assert plan.texts == texts_digest(texts), "a plan of other texts"
    match on:
        case Here():
            prepare = partial(_writer, out, model, texts)
        case Ray():
            prepare = Reopened(path=out.resolve(), source=_anywhere(model_source(plan.model)))
        case never:
            assert_never(never)
    store = _begun(model, texts, plan, out, made_by)
    require_model(store, model)
    if store.files:
        require_whole(store)
        return store
    _sweep(out)
    if not (out / TEXTS_FILE).exists():
        write_table(out / TEXTS_FILE, texts, TEXTS, made_by)
    shards = range(len(store.portions))
    missing = [number for number in shards if not all((out / name).exists() for name in _names(number))]
    on_progress(store.n_rows - sum(store.portions[number].n_rows for number in missing), store.n_rows)
    map_shards(
        prepare,
        missing,
        on,
        device=model.device,
        on_done=lambda number: on_progress(store.portions[number].n_rows, store.n_rows),
    )
    # What workers left that died while they wrote.
    _sweep(out)
    names = [TEXTS_FILE, *(name for number in shards for name in _names(number))]
    if absent := [name for name in names if not (out / name).exists()]:
        raise StorageError(
            f"{out / absent[0]} is not here, though a worker wrote it: want --out where all machines of the cluster "
            "see the same files; the same command goes on from what is here"
        )
    finished = replace(store, files={name: file_digest(out / name) for name in names})
    write_manifest(finished)
    return finished


@dataclass(frozen=True, kw_only=True, slots=True)
class Reopened:
    """Begins in a process of its own what `fill` does in this one: called there, it loads the model."""

    path: Path
    """Of a store that has been begun, with its texts."""
    source: ModelSource

    def __call__(self) -> Callable[[int], None]:
        """What writes a shard of that number; StorageError where the model there is another one."""
        store = read_manifest(self.path)
        # A worker's own GPU is cuda:0, whichever this process has.
        device = torch.device(torch.device(store.plan.device).type)
        model = load(self.source, device=device, dtype=DTYPES[store.plan.weights])
        require_model(store, model)
        return _writer(self.path, model, read_table(self.path / TEXTS_FILE, TEXTS))


def _writer(out: Path, model: Model, texts: pl.DataFrame) -> Callable[[int], None]:
    store = read_manifest(out)
    return lambda number: write_shard(model, store.plan, texts, number, store.portions[number], out, store.made_by)


def _names(number: int) -> tuple[str, str]:
    """The files of a shard."""
    return shard_name(number), index_name(number)


def _sweep(out: Path) -> None:
    """Deletes what a process that died left half written."""
    for leftover in leftovers(out):
        leftover.unlink(missing_ok=True)


def _anywhere(source: ModelSource) -> ModelSource:
    """The same source, as a process in another directory would name it."""
    match source:
        case LocalModel(path=path) | GgufModel(path=path) | AdapterModel(path=path):
            return replace(source, path=path.resolve())
        case HubModel() | BuiltInModel():
            return source
        case never:
            assert_never(never)


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
