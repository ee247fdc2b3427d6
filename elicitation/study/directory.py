"""The directory of a run: whose it is, and what its README says."""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lab.records.errors import StorageError
from lab.records.provenance import canonical_json
from lab.records.tables import write_text

FOOTER = """
A table (.parquet) says in its own metadata what made it; the page lists all tables, column by column, with checksums.
A folder with a stage.json is finished and never changes: the same command, given again, goes on from what is here.
To have a part computed again, delete its folder and those that come from it.
"""


@contextmanager
def claimed(out: Path, config: object, kind: str = "study") -> Iterator[None]:
    """Within the block, `out` is that of the run that `config` describes, and no other process works in it.

    `kind` is what such a run is called. Raises StorageError where `out` belongs to another configuration, holds
    something else, or is in use.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is not a directory: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    wanted, marker, handle = canonical_json(config), out / f"{kind}.json", os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # What a run that was killed while it wrote left behind.
        for leftover in (path for ending in ("json", "html", "txt") for path in out.glob(f".*.{ending}.*.partial")):
            leftover.unlink()
        if not any(out.iterdir()):
            write_text(marker, wanted)
        elif not marker.exists():
            raise StorageError(f"{out} is not empty and holds no {kind}: choose another --out")
        elif marker.read_text(encoding="utf-8") != wanted:
            raise StorageError(f"{out} holds a {kind} of another configuration: choose another --out or delete it")
        yield
    except BlockingIOError as error:
        raise StorageError(f"{out} is in use by another run of this {kind}: wait for it, or stop it") from error
    finally:
        os.close(handle)


def write_readme(out: Path, title: str, parts: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """Writes `out/README.txt`: those of `parts` that are there, and under `traces` its folders with their `labels`."""
    there = {name: what for name, what in parts.items() if (out / name).exists()}
    lines = [title, ""]
    for name, what in there.items():
        lines.append(f"{name + '/' * (out / name).is_dir():<20}{what}")
        if name == "traces":
            arms = sorted(path.name for path in (out / name).iterdir() if path.is_dir())
            width = max(map(len, arms), default=0) + 2
            lines += [f"  {arm:<{width}}{labels.get(arm, '')}".rstrip() for arm in arms]
    write_text(out / "README.txt", "\n".join(lines) + "\n" + FOOTER)
