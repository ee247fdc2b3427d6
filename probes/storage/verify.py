"""verify: which files of a store are not what was written."""

from typing import Literal, NamedTuple

from lab.errors import StorageError
from lab.provenance import file_digest
from probes.storage.store import Store


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
