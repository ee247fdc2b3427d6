"""Directories that appear with all their files or not at all.

A stage is one that is a named step of a study: computed once, kept by the digest of what determines it, and resumable.
The directory of a whole run is claimed by it, and has a README of what it holds.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path

from lab.records.errors import StorageError
from lab.records.provenance import (
    MANIFEST,
    MANIFEST_FORMAT,
    MARKER,
    canonical_json,
    checksums,
    digest,
    manifest,
    read_json,
    require_whole,
)
from lab.records.tables import leftovers, write_text, writing

FOOTER = """
A table (.parquet) says in its own metadata what made it; the page lists all tables, column by column, with checksums.
A folder with a stage.json is finished and never changes: the same command, given again, goes on from what is here.
To have a part computed again, delete its folder and those that come from it.
"""


@dataclass(frozen=True, slots=True)
class Artefact:
    """A finished stage: a directory that never changes again."""

    path: Path
    digest: str
    """Digest of the stage's name, configuration and parents."""


def memoised(
    out: Path, name: str, config: object, parents: Mapping[str, str], compute: Callable[[Path], None]
) -> Artefact:
    """Runs `compute(directory)` unless `out/name` already holds its result.

    Work happens in `out/.work/<name>`, which survives a kill, so `compute` may find whole files that an earlier attempt
    left and go on from them; when it returns, the directory gets a marker with the checksums of its files and moves to
    `out/name` in one step. Nothing empty stays behind: a `compute` that refuses before its first file leaves no work
    that a mended request would stumble over. Raises StorageError where `out/name` belongs to another configuration, or
    is damaged.
    """
    wanted = digest({"stage": name, "config": config, "parents": dict(parents)})
    final = out / name
    if not final.exists():
        with alone(final):
            try:
                # Another run may have been just before.
                if not final.exists():
                    _finish(final, wanted, compute)
            finally:
                _sweep(out / ".work", name)
    else:
        _sweep(out / ".work", name)
    check_stage(final, wanted)
    return Artefact(final, wanted)


def _finish(final: Path, wanted: str, compute: Callable[[Path], None]) -> None:
    work, owner = final.parent / ".work" / final.name, final.parent / ".work" / f"{final.name}.digest"
    if work.exists() and (not owner.exists() or owner.read_text() != wanted):
        raise StorageError(f"{work} holds unfinished work of another configuration: delete it or choose another --out")
    write_text(owner, wanted)
    with writing(work):
        work.mkdir(exist_ok=True)
    compute(work)
    for leftover in leftovers(work):
        leftover.unlink()
    # Without the marker that an attempt killed just before the move may have left.
    write_text(work / MARKER, json.dumps({"digest": wanted, "files": checksums(work)}, indent=1, sort_keys=True))
    work.rename(final)


def _sweep(place: Path, name: str) -> None:
    """Takes away the work of a stage if it is empty, then its owner's mark if there is no work, then an empty `place`.

    A kill may have left the mark, or a hidden part of it, after the work had gone.
    """
    with suppress(OSError):
        (place / name).rmdir()
    if not (place / name).exists() and place.exists():
        for path in sorted(place.iterdir()):
            if path.name == f"{name}.digest" or path.match(f".{escape(name)}.digest.*.partial"):
                path.unlink()
    with suppress(OSError):
        place.rmdir()


def check_stage(path: Path, wanted: str) -> None:
    """StorageError unless `path` is a finished stage with digest `wanted`, intact files and no others."""
    try:
        found, files = read_json(path / MARKER, "")["digest"], manifest(path / MARKER)
    except (StorageError, KeyError) as error:
        raise StorageError(f"{path} is not a finished stage: delete it or choose another --out") from error
    if found != wanted:
        raise StorageError(f"{path} holds results of another configuration: choose another --out or delete it")
    require_whole(path, files or {}, f"delete {path} to compute it again")


def require_as_written(directory: Path) -> None:
    """StorageError unless a directory that has a manifest is as it was written; one that has none is taken as it is."""
    for name in (MARKER, MANIFEST):
        if (files := manifest(directory / name)) is not None:
            cure = f"put it back from a copy, or, if it was changed on purpose, delete {directory / name}"
            require_whole(directory, files, cure)


def write_manifest(file: Path, files: Mapping[str, str]) -> None:
    """Writes a manifest of `files`, each with its SHA-256."""
    told = {"format": MANIFEST_FORMAT, "files": dict(files), "digest": digest(files)}
    write_text(file, json.dumps(told, indent=1, sort_keys=True) + "\n")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary directory beside `path`; on a clean exit it gets a manifest and becomes `path`, else it is removed.

    Raises StorageError where `path` exists, and with the system's reason when the disk refuses.
    """
    if path.exists():
        raise StorageError(f"{path} exists; delete it or choose another --out")
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    with writing(path, "choose another --out"):
        temporary.mkdir(parents=True)
    try:
        with writing(path):
            yield temporary
            seal(temporary)
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def seal(directory: Path) -> None:
    """Flushes the files of a directory that is finished, lets others read those, and writes its manifest."""
    # Libraries make some files that nobody else may read.
    mode = directory.stat().st_mode & 0o666
    for file in directory.rglob("*"):
        if file.is_file():
            file.chmod(mode)
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
    write_manifest(directory / MANIFEST, checksums(directory))


def require_free(out: Path, names: Sequence[str]) -> None:
    """StorageError where a file of these names lies beside `out`, unless `files_together` was killed there."""
    there = [name for name in names if out.with_name(name).exists()]
    files = manifest(out.with_suffix(f".{MANIFEST}")) or {}
    if there and (len(there) == len(names) or not {*there} <= {*files}):
        raise StorageError(f"{out.with_name(there[0])} exists: delete it or choose another --out")


@contextmanager
def files_together(out: Path) -> Iterator[Path]:
    """A temporary directory whose files, on a clean exit, move beside `out`, with a manifest `NAME.manifest.json`.

    The manifest comes first: of files that only a part was moved of, the rest is written again by the same command.
    """
    written = out.with_suffix(f".{MANIFEST}")
    for leftover in (path for file in (out, written) for path in out.parent.glob(f".{escape(file.name)}.*.partial")):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    work = out.with_name(f".{out.name}.{os.urandom(4).hex()}.partial")
    with writing(out):
        work.mkdir(parents=True)
    try:
        yield work
        with writing(out):
            write_manifest(written, checksums(work))
            for file in sorted(work.iterdir()):
                file.replace(out.with_name(file.name))
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Within the block no other process writes `out`, a file or a directory; StorageError at once where one does.

    A hidden empty file beside it is locked, which ends with the process; the file may outlive a kill, and does no harm.
    """
    place = out.absolute()
    lock = place.with_name(f".{place.name}.lock")
    made = [directory for directory in lock.parents if not directory.exists()]
    with writing(out, "choose another --out"):
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            # A directory that may be written, in one that may not, is locked itself.
            if not out.is_dir() or not os.access(out, os.W_OK):
                raise
            handle = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had it before may have taken it away meanwhile; then the next locks one of its own.
            if not os.path.samestat(os.fstat(handle), (lock if lock.exists() else out).stat()):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as error:
            told = f"{out} is in use by another run: wait for it, stop it, or choose another --out"
            raise StorageError(told) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    finally:
        os.close(handle)
        with suppress(OSError):
            for directory in made:
                directory.rmdir()


@contextmanager
def claimed(out: Path, config: object, kind: str = "study") -> Iterator[None]:
    """Within the block, `out` is that of the run that `config` describes, and no other process works in it.

    `kind` is what such a run is called. Raises StorageError where `out` belongs to another configuration, holds
    something else, or is in use.
    """
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is not a directory: choose another --out")
    with writing(out, "choose another --out"):
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
        elif marker.read_bytes() != wanted.encode():
            read_json(marker, f"put it back from a copy, or delete {out} and run the {kind} again")
            raise StorageError(f"{out} holds a {kind} of another configuration: choose another --out or delete it")
        # Nobody but this run writes here, so whoever locked a part of it is dead.
        for lock in out.rglob(".*.lock"):
            lock.unlink()
        yield
    except BlockingIOError as error:
        raise StorageError(
            f"{out} is in use by another run of this {kind}: wait for it, stop it, or choose another --out"
        ) from error
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
