"""Provenance: what a result file was made from, written into the file itself."""

import dataclasses
import functools
import hashlib
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
