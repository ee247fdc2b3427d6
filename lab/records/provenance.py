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

import numpy as np
import torch
from jaxtyping import Float64, UInt64

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
    if isinstance(value, Provenance):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item) for item in value)  # pyright: ignore[reportArgumentType]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
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
def _versions() -> tuple[tuple[str, str], ...]:
    found = []
    for name in PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            found.append((name, "absent"))
    return tuple(found)


def package_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return dict(_versions())


def child_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the thing called `names` under `seed`.

    It is a hash, so neighbouring seeds and neighbouring names share nothing (adding an index to a seed would make
    item i + 1 of seed s equal item i of seed s + 1).
    """
    text = "\x1f".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def torch_generator(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator for `names` under `seed`; draw on the CPU and move, so devices agree."""
    return torch.Generator().manual_seed(child_seed(seed, *names))


def numpy_generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for `names` under `seed`."""
    return np.random.default_rng(child_seed(seed, *names))


def uniforms(keys: UInt64[np.ndarray, " batch"], step: int) -> Float64[np.ndarray, " batch"]:
    """One number in [0, 1) for each key at `step`: a pure function of the two, whatever the batch.

    Counter-based: the splitmix64 output function (Steele, Lea and Flood 2014) applied to key + (step + 1) times the
    golden-ratio increment; the top 53 bits become the double.
    """
    with np.errstate(over="ignore"):
        state = keys + np.uint64(step + 1) * np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = state ^ (state >> np.uint64(31))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
