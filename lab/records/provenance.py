"""Provenance: what a result file was made from, written into the file itself; and what its bytes were when written.

A manifest lies in every directory that is written here: `stage.json` in a stage of a study, else `manifest.json`, or
`NAME.manifest.json` beside files that share a name. It gives the checksum of each file; whoever reads one checks it.
"""

import dataclasses
import functools
import hashlib
import json
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from lab.records.errors import StorageError, condensed

PACKAGES = ("elicitation-lab", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "polars", "numpy")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where a table or tensor file came from. It holds no clock time, so equal work gives equal bytes."""

    stage: str
    """The function that made the file."""
    config: str
    """Its configuration in force, as canonical JSON."""
    parents: dict[str, str]
    """Name -> digest of every artefact it read."""
    commit: str
    """Commit of this project, or "unknown" outside a checkout."""
    dirty: bool
    """Whether that checkout had uncommitted changes."""
    packages: dict[str, str]
    device: str
    dtype: str
    seed: int

    @property
    def digest(self) -> str:
        """Digest of what determines the content: stage, configuration and parents, not the machine."""
        return digest({"stage": self.stage, "config": self.config, "parents": self.parents})

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical_json(self)

    @classmethod
    def from_json(cls, text: str) -> "Provenance":
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


def provenance(
    stage: str, config: object, parents: Mapping[str, str], *, device: str, dtype: str, seed: int
) -> Provenance:
    """The provenance of work done now, in this checkout, on `device`."""
    commit, dirty = revision()
    return Provenance(
        stage=stage,
        config=canonical_json(config),
        parents=dict(parents),
        commit=commit,
        dirty=dirty,
        packages=package_versions(),
        device=device,
        dtype=dtype,
        seed=seed,
    )


def canonical_json(value: object) -> str:
    """JSON with sorted keys; a dataclass carries its class name, so variants of a union differ."""
    return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest(value: object) -> str:
    """Sixteen hex digits of SHA-256 over the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


SETTLED_NS = 200_000_000
"""A file that was changed so lately may change again within a tick of its clock, and is read each time."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex; a process reads no file twice for it that has not changed in between."""
    told = path.stat()
    if time.time_ns() - told.st_ctime_ns < SETTLED_NS:
        return _digest_of.__wrapped__(path)
    return _digest_of(path, told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns)


@functools.lru_cache(maxsize=8192)
def _digest_of(path: Path, *_: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


MARKER, MANIFEST = "stage.json", "manifest.json"
MANIFEST_FORMAT = "elicitation-lab.manifest.1"
N_ABOVE = 4
"""A file lies at most so many directories below the manifest that tells of it."""


def read_json(path: Path, cure: str) -> dict[str, Any]:
    """The object in a file of JSON; StorageError that ends in `cure` for one that is missing or no such object."""
    try:
        told = json.loads(path.read_bytes())
        # A text with half a character in it can be written nowhere.
        json.dumps(told, ensure_ascii=False).encode()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}; {cure}") from error
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{path} is damaged, and no JSON ({condensed(error)}): {cure}") from error
    if not isinstance(told, dict):
        raise StorageError(f"{path} holds a JSON {type(told).__name__}, want an object: {cure}")
    return told


def checksums(directory: Path) -> dict[str, str]:
    """Name -> SHA-256 of every file in `directory` and below, but for its manifest and hidden ones."""
    return {name: file_digest(directory / name) for name in _names(directory)}


def _names(directory: Path) -> list[str]:
    names = (path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file())
    own = (MARKER, MANIFEST)
    return [str(name) for name in names if str(name) not in own and not any(p.startswith(".") for p in name.parts)]


def manifest(file: Path) -> dict[str, str] | None:
    """What the manifest at `file` says of files; None where there is none, or it is another program's or unfinished.

    Raises StorageError for one that is damaged.
    """
    if not file.is_file():
        return None
    cure = f"delete {file.parent if file.name == MARKER else file} to have it made again, or put it back from a copy"
    told = read_json(file, cure)
    files, form = told.get("files"), told.get("format")
    listed = isinstance(files, dict) and all(re.fullmatch("[0-9a-f]{64}", str(value)) for value in files.values())
    if not (listed or "digest" in told or str(form).startswith("elicitation-lab")):
        return None
    if listed and not files and "portions" in told:
        return None
    own = told.get("digest")
    if file.name == MARKER or "portions" in told:
        is_whole = re.fullmatch("[0-9a-f]{16}", str(own))
    else:
        is_whole = form == MANIFEST_FORMAT and own == digest(files)
    # A stage may have nothing to write; files that lie there all the same are strangers.
    if not (listed and (files or file.name == MARKER) and is_whole):
        raise StorageError(f"{file} is damaged, or of another version: want its `files`, a checksum for each; {cure}")
    return files


def require_intact(path: Path) -> None:
    """StorageError unless the file at `path` is as it was written, by the manifest that tells of it.

    That is one of its own directory or of one above it, or one beside it that begins with its name. A file of which no
    manifest tells is taken as it is.
    """
    for place in dict.fromkeys((path.absolute(), path.resolve())):
        stems = dict.fromkeys((place.stem, Path(place.stem).stem))
        beside = [(place.parent / f"{stem}.{MANIFEST}") for stem in stems]
        above = [directory / name for directory in place.parents[:N_ABOVE] for name in (MARKER, MANIFEST)]
        for file in (*beside, *above):
            files = manifest(file) if file != place else None
            if files is not None and (name := str(place.relative_to(file.parent))) in files:
                if not place.is_file() or file_digest(place) != files[name]:
                    raise StorageError(
                        f"{path} is missing or damaged: want the bytes that {file.name} tells of; {_CURE}"
                    )
                return
            # Beside a file may lie those of a longer name, of which its manifest does not tell.
            if files is not None and (
                file not in beside[1:] or not all(file.with_name(other).exists() for other in files)
            ):
                raise StorageError(f"{path} is a stranger: {file} does not name it; {_CURE}")


_CURE = "put it back from a copy, or have it made again"


def require_whole(directory: Path, files: Mapping[str, str], cure: str = _CURE) -> None:
    """StorageError unless `directory` holds the files of its manifest, as they were written, and no others."""
    there = {*_names(directory)}
    lost = [name for name in sorted(files) if name not in there or file_digest(directory / name) != files[name]]
    if lost:
        raise StorageError(f"{directory / lost[0]} is missing or damaged: {cure}")
    if strange := sorted(there - {*files}):
        raise StorageError(
            f"{directory / strange[0]} was not there when {directory} was written: take it away, or {cure}"
        )


def _plain(value: object) -> object:
    # First, since a vocabulary has hundreds of thousands of them.
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return fields if isinstance(value, Provenance) else {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)  # pyright: ignore[reportArgumentType]
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no canonical JSON")


@functools.cache
def revision() -> tuple[str, bool]:
    """(commit, dirty) of the checkout this package lies in."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    tracked = git("ls-files", "--error-unmatch", __file__)
    commit = git("rev-parse", "HEAD") if tracked else None
    if commit is None:
        return "unknown", False
    return commit, bool(git("status", "--porcelain", "--untracked-files=no"))


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {package: _version(package) for package in PACKAGES}
