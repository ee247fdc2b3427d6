"""repair: the damaged shards of a store, captured again; the others are left alone."""

import shutil
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from lab.models.load import Model
from lab.records.errors import StorageError
from lab.records.provenance import file_digest
from lab.records.tables import read_table
from probes.capture.texts import TEXTS
from probes.storage.shard import write_shard
from probes.storage.store import TEXTS_FILE, Store, index_name, require_model, shard_name


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
