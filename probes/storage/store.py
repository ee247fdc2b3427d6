"""Store: activations on disk, with where they came from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lab.models.load import Model
from lab.records.errors import StorageError
from lab.records.provenance import Provenance, canonical_json, digest
from lab.records.tables import Column, Schema, read_table, write_text
from probes.storage.plan import Plan, Portion, read_plan

FORMAT = "elicitation-lab.activations.1"
MANIFEST, TEXTS_FILE = "manifest.json", "texts.parquet"

INDEX = Schema(
    "activation index",
    (
        Column("shard", pl.Int32, "number of the shard, from 0"),
        Column("row", pl.Int32, "row of the shard's tensors, which are alike for all sites"),
        Column("text", pl.Int32, "row of texts.parquet"),
        Column("problem_id", pl.String, "the problem that the text answers"),
        Column("sample_index", pl.Int32, "number of the sample of this problem, from 0"),
        Column("position", pl.Int32, "place of the token in its text, prompt included, from 0"),
        Column("token", pl.Int32, "the token read there"),
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """A directory of activations: `manifest.json`, `texts.parquet`, and of every shard two files.

    `shards/00000.safetensors` has one tensor a site, `row d_model`, named as the site; `index/00000.parquet` says of
    every row which token of which text it is (`INDEX`).
    """

    path: Path
    plan: Plan
    made_by: Provenance
    portions: tuple[Portion, ...]
    """What each shard holds."""
    files: Mapping[str, str]
    """Name -> SHA-256 of every file but the manifest; empty while the store is not finished."""

    @property
    def n_rows(self) -> int:
        """Activations at each site."""
        return sum(portion.n_rows for portion in self.portions)

    def shard(self, number: int) -> Path:
        """File of the tensors of a shard."""
        return self.path / shard_name(number)

    def index(self) -> pl.LazyFrame:
        """`INDEX` rows of all shards, read as they are asked for; StorageError where a part is missing."""
        parts = [self.path / index_name(number) for number in range(len(self.portions))]
        if missing := [part for part in parts if not part.is_file()]:
            raise StorageError(f"{missing[0]} is missing, one of {len(missing)}: lab capture repair {self.path}")
        return pl.scan_parquet(parts)


def shard_name(number: int) -> str:
    """Where the tensors of a shard lie in a store."""
    return f"shards/{number:05d}.safetensors"


def index_name(number: int) -> str:
    """Where the index of a shard lies in a store."""
    return f"index/{number:05d}.parquet"


def read_index(store: Store, number: int) -> pl.DataFrame:
    """`INDEX` rows of one shard; StorageError where they cannot be read, or are no such table."""
    try:
        return read_table(store.path / index_name(number), INDEX)
    except StorageError as error:
        raise StorageError(f"{error}; lab capture repair {store.path}") from error


def open_store(path: Path) -> Store:
    """The finished store at `path`; its files are not read, for which there is `verify`.

    Raises StorageError where there is none, where it is not finished, or where its manifest is damaged.
    """
    store = read_manifest(path)
    if not store.files:
        raise StorageError(f"{path} is not finished: give the `lab capture run` that began it again")
    return store


def require_model(store: Store, model: Model) -> None:
    """StorageError unless `store` was made from exactly this model."""
    if store.plan.model_digest != model.digest:
        raise StorageError(
            f"{store.path} was made from {store.plan.model} with digest {store.plan.model_digest}, and {model.name} "
            f"has {model.digest}: want that very model, or a store of this one"
        )


def write_manifest(store: Store) -> None:
    """Writes all that a `Store` says but where it lies, whole or not at all, with a digest of itself."""
    described: dict[str, object] = {
        "format": FORMAT,
        "plan": store.plan,
        "provenance": store.made_by,
        "portions": store.portions,
        "files": store.files,
    }
    text = json.dumps(json.loads(canonical_json(described)) | {"digest": digest(described)}, indent=1, sort_keys=True)
    write_text(store.path / MANIFEST, text + "\n")


def read_manifest(path: Path) -> Store:
    """The store at `path`, finished or not; StorageError where there is none, or its manifest is damaged."""
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except OSError as error:
        raise StorageError(f"{path} is not a store of activations: it has no {MANIFEST}") from error
    damaged = f"{file} is damaged: delete {path} and capture again, or put the file back from a copy"
    try:
        described = json.loads(text)
        claimed = described.pop("digest")
        if described["format"] != FORMAT:
            raise StorageError(f"{file} is of format {described['format']!r}, want {FORMAT!r}: use that version's lab")
        if digest(described) != claimed:
            raise StorageError(damaged)
        return Store(
            path=path,
            plan=read_plan(described["plan"]),
            made_by=Provenance(**described["provenance"]),
            portions=tuple(Portion(*portion) for portion in described["portions"]),
            files=described["files"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(damaged) from error
